//! What may differ: nothing else may. Each is one of the declared freedoms of `docs/semantics.md`, or a matter of the clock.

use serde_json::Value;

/// Takes out of a message's headers what two brokers need not agree on.
pub(super) fn take_out(headers: &mut Value) {
    let deaths = headers.get_mut("x-death").and_then(Value::as_array_mut);
    for death in deaths.into_iter().flatten() {
        forget_time(death);
    }
}

/// When it died: the brokers have clocks of their own.
fn forget_time(death: &mut Value) {
    if let Some(death) = death.as_object_mut() {
        death.remove("time");
    }
}
