//! Further routing keys in the headers of a message, as RabbitMQ has them ("sender-selected distribution"): those in `CC`
//! are for everybody to see, and `BCC` is taken off before anybody does. Dead letters go by both.

use crate::field::FieldValue;
use crate::message::{Content, Envelope};
use crate::name::Name;

const CC: &str = "CC";
const BCC: &str = "BCC";

/// Whether the routing key isn't all that a message is routed by.
#[inline]
pub(super) fn has_any(content: &Content) -> bool {
    let headers = content.headers();
    !headers.is_empty() && (headers.contains(CC) || headers.contains(BCC))
        || !content.hidden_keys().is_empty()
}

/// All keys that a message is routed by.
pub(super) fn keys(content: &Content) -> impl Iterator<Item = &str> {
    let hidden = content.hidden_keys().iter().map(Name::as_str);
    visible_keys(content)
        .chain(listed(content, BCC))
        .chain(hidden)
}

/// The routing key, and those that receivers see beside it.
pub(super) fn visible_keys(content: &Content) -> impl Iterator<Item = &str> {
    let own = content.routing_key().as_str();
    std::iter::once(own).chain(listed(content, CC))
}

/// The keys that a header lists; what isn't text is none.
fn listed<'a>(content: &'a Content, header: &str) -> impl Iterator<Item = &'a str> {
    let list = content.headers().get(header).and_then(FieldValue::as_array);
    list.unwrap_or_default()
        .iter()
        .filter_map(FieldValue::as_str)
}

/// The message as its receivers get it, if that isn't as it was published.
pub(super) fn without_hidden(envelope: &Envelope) -> Option<Envelope> {
    if envelope.headers().is_empty() || !envelope.headers().contains(BCC) {
        return None;
    }
    let mut content = (**envelope).clone();
    content.rare_mut().hidden_keys = listed(envelope, BCC).map(Name::from).collect();
    content.headers.remove(BCC);
    Some(Envelope::new(envelope.publish_id(), content))
}

/// Leaves the message with its routing key alone.
pub(super) fn forget(content: &mut Content) {
    content.headers.remove(CC);
    content.set_hidden_keys(Vec::new());
}
