use super::Direction;

/// The longest request that is looked for.
pub(super) const LONGEST: usize = 256;

/// What is to happen once, when something has passed.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// How many more bytes may pass in each direction.
    left: [Option<u64>; 2],
    reply: Option<Reply>,
}

#[derive(Debug)]
enum Reply {
    Expected(Trigger),
    /// The server has the request, and the next thing that it says on this line is lost.
    Due {
        line: u64,
        any_would_do: bool,
    },
}

#[derive(Debug)]
pub(super) enum Trigger {
    After(u64),
    Bytes(Vec<u8>),
}

impl Trigger {
    pub(super) fn bytes(bytes: &[u8]) -> Self {
        Trigger::Bytes(bytes[bytes.len().saturating_sub(LONGEST)..].to_vec())
    }

    /// Whether a request that passes makes its reply the one to lose. `before` is what passed before it.
    fn is_met(&mut self, before: &[u8], request: &[u8]) -> bool {
        match self {
            Trigger::After(left) => {
                let passed = request.len() as u64;
                let met = *left < passed;
                *left = left.saturating_sub(passed);
                met
            }
            Trigger::Bytes(wanted) if wanted.is_empty() => true,
            Trigger::Bytes(wanted) => {
                // It ends in this request, and may have begun before.
                let start = before.len().saturating_sub(wanted.len() - 1);
                let seen = [&before[start..], request].concat();
                seen.windows(wanted.len()).any(|window| window == wanted)
            }
        }
    }
}

/// What becomes of bytes that want to pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// So many pass, and then all lines are cut.
    CutAfter(usize),
    /// Nothing passes, and all lines are cut.
    LoseReply,
}

impl Plan {
    pub(super) fn cut_after(&mut self, direction: Direction, bytes: u64) {
        self.left[direction as usize] = Some(bytes);
    }

    pub(super) fn lose_reply(&mut self, trigger: Trigger) {
        self.reply = Some(Reply::Expected(trigger));
    }

    pub(super) fn judge(
        &mut self,
        line: u64,
        direction: Direction,
        before: &[u8],
        bytes: &[u8],
    ) -> Verdict {
        let left = &mut self.left[direction as usize];
        match left.and_then(|left| usize::try_from(left).ok()) {
            Some(few) if few <= bytes.len() => {
                *left = None;
                return Verdict::CutAfter(few);
            }
            Some(_) => *left = left.map(|left| left - bytes.len() as u64),
            None => {}
        }
        if let (Some(Reply::Expected(trigger)), Direction::ToServer) = (&mut self.reply, direction)
            && trigger.is_met(before, bytes)
        {
            let any_would_do = matches!(trigger, Trigger::After(_));
            self.reply = Some(Reply::Due { line, any_would_do });
        }
        if direction == Direction::ToClient
            && matches!(self.reply, Some(Reply::Due { line: on, .. }) if on == line)
        {
            self.reply = None;
            return Verdict::LoseReply;
        }
        Verdict::Pass
    }

    /// A line is gone, and what was due there never comes: if any reply would do, the next one is lost in its place.
    pub(super) fn forget(&mut self, gone: u64) {
        if let Some(Reply::Due { line, any_would_do }) = self.reply
            && line == gone
            && any_would_do
        {
            self.reply = Some(Reply::Expected(Trigger::After(0)));
        }
    }
}
