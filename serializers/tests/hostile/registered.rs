use super::*;
use kombu_serializers::{BoxError, Visit};

fn json<'de>(body: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    visit.value(&mut json)?;
    Ok(json.end()?)
}

#[test]
fn a_registered_codec_is_held_to_the_same_nesting() {
    let codec = Codec::builder("own", "application/x-own", "utf-8")
        .decoder(json)
        .build()
        .unwrap();
    for level in [
        "[",
        "{\"a\":",
        "{\"next\":",
        "{\"Link\":",
        "{\"Ring\":{\"inner\":",
    ] {
        refused_as_anything(&codec, level.repeat(100_000).as_bytes());
    }
    let deepest = format!("{}{}", "[".repeat(127), "]".repeat(127));
    assert!(codec.decode::<Value>(deepest.as_bytes()).is_ok());
    assert!(codec.decode::<List>(deepest.as_bytes()).is_ok());
}
