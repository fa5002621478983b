//! Waiting where the server doesn't tell of changes.

use std::sync::Weak;
use std::time::Duration;

use kombu_core::Result;
use redis::Value;

use crate::bell::consumers_key;
use crate::error;
use crate::flight::number;
use crate::script::Script;
use crate::store::Shared;

/// How often one command looks for all consumers of a session. With the signs of life, that is less than 2 commands a second.
pub(crate) const PAUSE: Duration = Duration::from_millis(750);

/// Runs until the session is over, or nobody has it any more.
pub(crate) async fn now_and_then(shared: Weak<Shared>) {
    loop {
        let Some(strong) = shared.upgrade() else {
            return;
        };
        if let Err(problem) = look(&strong).await {
            tracing::debug!(error = %problem, "a session with Redis couldn't look for messages");
        }
        let over = strong.line.over();
        drop(strong);
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = over => return,
        }
    }
}

async fn look(shared: &Shared) -> Result<()> {
    let prefix = &shared.line.prefix;
    let queues = shared.bells.queues(prefix);
    if queues.is_empty() {
        return Ok(());
    }
    let mut command = Script::Look.call(prefix);
    command.arg(queues);
    let answer = shared.line.ask(command).await?;
    let Value::Array(found) = &answer else {
        return Err(error::unexpected("a look", &answer));
    };
    if let Some(wait) = found.first().and_then(number) {
        shared.pulse.due_in(Duration::from_millis(wait + 1));
    }
    for queue in found {
        if let Value::BulkString(queue) = queue
            && let Ok(queue) = std::str::from_utf8(queue)
        {
            shared.bells.ring(consumers_key(prefix, queue).as_bytes());
        }
    }
    Ok(())
}
