//! Asks before something is lost.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::Context;
use crate::failure::{Code, Failure, Result};

/// Asks whoever sits there; where nobody does, only `--yes` is an answer.
pub(crate) async fn confirm(context: &Context, question: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "{question} Nobody is there to be asked; --yes says that you mean it"
        )));
    }
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let read = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        read.map(|_| answer)
    });
    let read = async { Ok(read.await) };
    let answer = context.stop.unless_asked("anything was done", read).await?;
    let answer = answer.ok().and_then(std::result::Result::ok);
    match answer.is_some_and(|answer| matches!(answer.trim(), "y" | "Y" | "yes")) {
        true => Ok(()),
        false => Err(Failure::new(Code::Failed, "nothing was done")),
    }
}
