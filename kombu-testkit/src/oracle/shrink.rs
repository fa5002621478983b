use serde_json::Value;

use super::sequence::{Sequence, Step};

/// The smallest sequence that can be found for which `fails` still holds, as it does for this one: no step of it can
/// be left out, nor any attribute of a step.
pub(super) async fn shrink(
    mut sequence: Sequence,
    mut fails: impl AsyncFnMut(&Sequence) -> bool,
) -> Sequence {
    loop {
        let before = sequence.clone();
        // Ever shorter runs of steps, from the back: what is built on goes after what is built on it.
        let mut length = sequence.0.len().div_ceil(2);
        while length > 0 {
            let mut end = sequence.0.len();
            while end > 0 {
                let begin = end.saturating_sub(length);
                let mut shorter = sequence.clone();
                shorter.0.drain(begin..end);
                if fails(&shorter).await {
                    sequence = shorter;
                }
                end = begin.min(sequence.0.len());
            }
            length /= 2;
        }
        for index in 0..sequence.0.len() {
            while let Some(simpler) = simplify(&sequence, index, &mut fails).await {
                sequence = simpler;
            }
        }
        if sequence == before {
            return sequence;
        }
    }
}

/// The sequence with one attribute less in this step.
async fn simplify(
    sequence: &Sequence,
    index: usize,
    fails: &mut impl AsyncFnMut(&Sequence) -> bool,
) -> Option<Sequence> {
    for step in simpler(&sequence.0[index]) {
        let mut candidate = sequence.clone();
        candidate.0[index] = step;
        if fails(&candidate).await {
            return Some(candidate);
        }
    }
    None
}

/// The step without one of its attributes, for each that it can do without.
fn simpler(step: &Step) -> Vec<Step> {
    let Ok(whole) = serde_json::to_value(step) else {
        return Vec::new();
    };
    let mut paths = Vec::new();
    add_paths(&whole, String::new(), &mut paths);
    let parts = paths.iter().filter_map(|(object, key)| {
        let mut part = whole.clone();
        part.pointer_mut(object)?.as_object_mut()?.remove(key)?;
        serde_json::from_value(part).ok()
    });
    // An attribute that follows from another one comes back.
    parts.filter(|part| part != step).collect()
}

/// All keys of all objects, with the path of the object.
fn add_paths(value: &Value, object: String, paths: &mut Vec<(String, String)>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        paths.push((object.clone(), key.clone()));
        // Names in a sequence have neither `~` nor `/`, which would have to be escaped.
        add_paths(value, format!("{object}/{key}"), paths);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::sequence::Operation;

    #[tokio::test]
    async fn what_makes_no_difference_is_left_out() {
        let whole = Sequence::generate(7);
        let drains = |step: &Step| matches!(&step.operation, Operation::Drain(_));
        let second = whole.0.iter().filter(|step| drains(step)).nth(1).cloned();
        let second = second.unwrap();
        let shrunk = shrink(whole, async |sequence| sequence.0.contains(&second)).await;
        assert_eq!(shrunk.0, [second]);
    }

    #[tokio::test]
    async fn what_is_left_of_a_step_is_what_makes_the_difference() {
        let sequence = Sequence::generate(1);
        let has_dead_letters = |step: &Step| match &step.operation {
            Operation::DeclareQueue(queue) => queue.get_dead_letter_exchange().is_some(),
            _ => false,
        };
        let shrunk = shrink(sequence, async |sequence| {
            sequence.0.iter().any(has_dead_letters)
        });
        let [step] = shrunk.await.0.try_into().unwrap();
        let Operation::DeclareQueue(queue) = step.operation else {
            panic!("{step:?}");
        };
        let bare = kombu_core::Queue::new("")
            .dead_letter_exchange(queue.get_dead_letter_exchange().cloned().unwrap());
        assert_eq!(queue, bare);
    }
}
