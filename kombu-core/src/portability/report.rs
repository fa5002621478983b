use std::fmt;

use crate::declare::ExchangeKind;
use crate::driver::{Capabilities, Feature, Support};
use crate::error::{Error, ErrorKind, Result};
use crate::layers::Need;
use crate::options::nearest;

/// How a [`Topology`](crate::Topology) fares on a transport: one entry for each declaration.
///
/// Written as text, it has a line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it says what isn't supported, and refuses nothing by itself"]
pub struct Portability {
    declarations: Vec<Portable>,
}

/// How one declaration fares.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Portable {
    /// Which one, for people: "queue `videos`".
    pub name: String,
    /// The least of what it asks for: one feature that isn't there makes it unsupported. Native, if it asks for nothing that
    /// not every transport has.
    pub support: Support,
    /// What it asks for.
    pub asks: Vec<FeatureUse>,
    /// What its arguments ask for at which this transport does nothing, and why that is refused.
    pub arguments: Vec<String>,
    /// What is kept with it, and does nothing on this transport: `type: quorum` and arguments that it doesn't read.
    pub kept: Vec<String>,
    /// Why every broker would refuse it, which makes it unsupported everywhere.
    pub problem: Option<String>,
}

/// A feature that a declaration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FeatureUse {
    /// Which one.
    pub feature: Feature,
    /// Whether the transport has it.
    pub support: Support,
    /// How it does that and within which limits, or why it doesn't.
    pub note: Option<String>,
}

impl FeatureUse {
    /// What becomes of a message whose handler failed.
    pub(super) fn of_retries(capabilities: &Capabilities) -> Self {
        let feature = Feature::DelayedRetry;
        match capabilities.support(feature) {
            Support::Unsupported => FeatureUse {
                feature,
                support: Support::Emulated,
                note: Some("the handler holds the message until it is due".to_owned()),
            },
            support => FeatureUse {
                feature,
                support,
                note: capabilities.note(feature).map(str::to_owned),
            },
        }
    }

    /// Which further kinds of exchanges there are, only a broker or a program knows.
    pub(super) fn of_kind(mut self, kind: &ExchangeKind, capabilities: &Capabilities) -> Self {
        if self.support == Support::Unsupported {
            return self;
        }
        let whose = match capabilities.broker_arguments() {
            true => "if a plugin of the broker has it",
            false => "if the program registers it with `ConnectionBuilder::exchange_kind`",
        };
        let mut note = format!("`{kind}`, {whose}");
        if let Some(near) = nearest(kind.as_str(), ExchangeKind::NAMES) {
            note.push_str(&format!("; did you mean `{near}`?"));
        }
        self.note = Some(match self.note {
            Some(limits) => format!("{note}; {limits}"),
            None => note,
        });
        self
    }

    pub(super) fn of(need: &Need, capabilities: &Capabilities) -> Self {
        let feature = need.feature;
        match need.problem(capabilities) {
            Some(problem) => FeatureUse {
                feature,
                support: Support::Unsupported,
                note: Some(problem),
            },
            None => FeatureUse {
                feature,
                support: capabilities.support(feature),
                note: capabilities.note(feature).map(str::to_owned),
            },
        }
    }
}

impl Portable {
    pub(super) fn new(
        name: String,
        asks: Vec<FeatureUse>,
        arguments: Vec<String>,
        problem: Option<String>,
    ) -> Self {
        let least = asks.iter().map(|asked| asked.support).min();
        let support = match problem.is_some() || !arguments.is_empty() {
            true => Support::Unsupported,
            false => least.unwrap_or(Support::Native),
        };
        Portable {
            name,
            support,
            asks,
            arguments,
            kept: Vec::new(),
            problem,
        }
    }

    /// What is wrong with it, each in words.
    fn problems(&self) -> impl Iterator<Item = String> {
        let lacking = self
            .asks
            .iter()
            .filter(|asked| asked.support == Support::Unsupported);
        let lacking = lacking.filter_map(|asked| asked.note.as_ref());
        let lacking = lacking.chain(&self.arguments);
        let lacking = lacking.map(|note| format!("{} asks for {note}", self.name));
        let problem = self.problem.iter();
        problem
            .map(|problem| format!("{}: {problem}", self.name))
            .chain(lacking)
    }
}

impl Portability {
    pub(super) fn new(declarations: Vec<Portable>) -> Self {
        Portability { declarations }
    }

    /// Each declaration, in the order of declaring.
    pub fn declarations(&self) -> &[Portable] {
        &self.declarations
    }

    /// The least of all: `Unsupported` if one declaration is.
    pub fn support(&self) -> Support {
        let all = self
            .declarations
            .iter()
            .map(|declaration| declaration.support);
        all.min().unwrap_or(Support::Native)
    }

    /// Fails unless everything is supported, natively or by emulation.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`], which lists everything that isn't.
    pub fn require(&self) -> Result<()> {
        let declarations = self.declarations.iter();
        let problems: Vec<String> = declarations.flat_map(Portable::problems).collect();
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Unsupported, problems.join("\n"))),
        }
    }
}

impl fmt::Display for Portability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for declaration in &self.declarations {
            writeln!(f, "{}: {}", declaration.name, declaration.support)?;
            if let Some(problem) = &declaration.problem {
                writeln!(f, "  refused by every broker: {problem}")?;
            }
            for problem in &declaration.arguments {
                writeln!(f, "  unsupported: {problem}")?;
            }
            for kept in &declaration.kept {
                writeln!(f, "  nothing is done with {kept}")?;
            }
            for asked in &declaration.asks {
                match (&asked.note, asked.support) {
                    (Some(problem), Support::Unsupported) => {
                        writeln!(f, "  unsupported: {problem}")
                    }
                    (Some(note), support) => writeln!(f, "  {support}: {} ({note})", asked.feature),
                    (None, support) => writeln!(f, "  {support}: {}", asked.feature),
                }?;
            }
        }
        Ok(())
    }
}
