//! Asks before something is lost.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::failure::{Code, Failure, Result};

/// Asks whoever sits there; where nobody does, only `--yes` is an answer.
pub(crate) fn confirm(question: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "{question} Nobody is there to be asked; --yes says that you mean it"
        )));
    }
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    // What a person types is short; a file may stand behind a terminal, too.
    let read = io::stdin().lock().read_line(&mut answer);
    match read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        true => Ok(()),
        false => Err(Failure::new(Code::Failed, "nothing was done")),
    }
}
