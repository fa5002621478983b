use std::path::PathBuf;

use clap::Args;
use kombu::driver::Support;
use kombu::serializers::Registry;
use serde_json::json;

use crate::Context;
use crate::failure::{Code, Failure, Result, in_our_words};
use crate::output;

/// Say what transports can't do of a file, without a broker; ends with code 7 if there is something
///
/// For each declaration: whether it is native, emulated by the client (how, and within which limits), or unsupported. Serializers
/// and compressions that the command doesn't have, and a program may, are told, too (with --json as `unknown`).
#[derive(Args, Debug)]
#[command(after_help = "Example:
  kombu check shop.yaml --on amqp,redis,nats,memory")]
pub(crate) struct Check {
    /// A configuration file
    #[arg(value_name = "FILE")]
    topology: PathBuf,
    /// The schemes of these transports; all of them, unless told otherwise
    #[arg(long, value_name = "SCHEMES", value_delimiter = ',')]
    on: Vec<String>,
}

impl Check {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        let registry = kombu::registry();
        let config = kombu::from_config(&self.topology)?;
        let topology = config.topology();
        let schemes = match self.on.is_empty() {
            true => {
                let all = ["amqp", "memory", "nats", "redis"].into_iter();
                let built_in = all.filter(|scheme| registry.capabilities(scheme).is_some());
                built_in.map(str::to_owned).collect()
            }
            false => self.on,
        };
        // All of them before the first is told of.
        let asked = schemes.iter().map(|scheme| {
            let capabilities = registry.capabilities(scheme).ok_or_else(|| {
                Failure::usage(format!(
                    "`{scheme}` is no transport; there are {}",
                    registry.schemes().join(", ")
                ))
            })?;
            Ok((scheme, capabilities))
        });
        let asked: Vec<_> = asked.collect::<Result<_>>()?;
        // No reason to end with a code: a program may have what the command doesn't.
        for unknown in config.unknown_serializers(&Registry::default()) {
            let problem = unknown.message();
            match context.output.json {
                true => context.output.json(&json!({ "unknown": problem }))?,
                false => output::note(problem),
            }
        }
        let mut lacking = Vec::new();
        for (scheme, capabilities) in asked {
            let report = topology.check(&capabilities);
            if report.support() == Support::Unsupported {
                lacking.push(scheme.as_str());
            }
            match context.output.json {
                true => {
                    for declaration in report.declarations() {
                        let asks = declaration.asks.iter().map(|asked| {
                            json!({
                                "feature": asked.feature.to_string(),
                                "support": asked.support.to_string(),
                                "note": asked.note,
                            })
                        });
                        context.output.json(&json!({
                            "on": scheme,
                            "declaration": declaration.name,
                            "support": declaration.support.to_string(),
                            "asks": asks.collect::<Vec<_>>(),
                            "arguments": declaration.arguments,
                            "kept": declaration.kept,
                            "problem": declaration.problem,
                        }))?;
                    }
                }
                false => {
                    let report = in_our_words(&report.to_string());
                    context
                        .output
                        .line(format!("{scheme}\n{report}").trim_end())?;
                }
            }
        }
        match lacking.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(
                Code::Differs,
                format!("not everything can be done on {}", lacking.join(", ")),
            )),
        }
    }
}
