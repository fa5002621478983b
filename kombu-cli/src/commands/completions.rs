use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::failure::Result;
use crate::{Cli, Context};

/// Write what completes this command in a shell
#[derive(Args, Debug)]
#[command(after_help = "Example:
  kombu completions bash > ~/.local/share/bash-completion/completions/kombu")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "kombu", &mut script);
        context.output.bytes(&script)
    }
}
