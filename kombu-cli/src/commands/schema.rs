use clap::Args;
use kombu::Config;

use crate::Context;
use crate::failure::Result;

/// Write the JSON Schema of configuration files, for an editor
#[derive(Args, Debug)]
#[command(after_help = "Example:
  kombu schema > kombu.schema.json
  and in the first line of a file:
  # yaml-language-server: $schema=./kombu.schema.json")]
pub(crate) struct Schema {}

impl Schema {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        context.output.bytes(Config::json_schema().as_bytes())
    }
}
