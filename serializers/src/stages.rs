//! All byte stages that a program knows.

use std::fmt;

use parking_lot::RwLock;

use crate::builtin::compression;
use crate::content::quoted;
use crate::error::{SerializerError, SerializerErrorKind};
use crate::stage::Stage;

/// The byte stages to choose from; see [`Registry::stages`](crate::Registry::stages).
///
/// The default has the compression of the enabled features.
pub struct Stages(RwLock<Vec<Stage>>);

impl Default for Stages {
    fn default() -> Self {
        Self(RwLock::new(compression::built_in()))
    }
}

impl Stages {
    /// Adds a stage. It takes the place of those that have its name or its content type, built-in ones
    /// included.
    ///
    /// Whoever has taken a stage out of here before keeps that one.
    pub fn register(&self, stage: Stage) {
        let mut stages = self.0.write();
        let replaced: Vec<Stage> = stages
            .extract_if(.., |old| {
                old.name() == stage.name() || old.has_type(stage.content_type())
            })
            .collect();
        stages.push(stage);
        // What is dropped is the program's, and might use this registry.
        drop(stages);
        drop(replaced);
    }

    /// The stage of this name, alias or content type. Names are compared exactly.
    ///
    /// # Errors
    ///
    /// [`UnknownStage`](SerializerErrorKind::UnknownStage), which names the feature to enable if it is one of
    /// ours, and else the nearest name or those that are there.
    ///
    /// ```
    /// # #[cfg(feature = "zlib")] {
    /// # use kombu_serializers::Registry;
    /// let registry = Registry::default();
    /// assert_eq!(registry.stages().by_name("gzip")?.name(), "zlib");
    /// let error = registry.stages().by_name("zlibb").unwrap_err();
    /// assert!(error.to_string().ends_with("did you mean `zlib`?"));
    /// # }
    /// # Ok::<(), kombu_serializers::SerializerError>(())
    /// ```
    pub fn by_name(&self, name: &str) -> Result<Stage, SerializerError> {
        let stages = self.0.read();
        let named = stages.iter().find(|stage| stage.name() == name);
        named
            .or_else(|| stages.iter().find(|stage| stage.has_alias(name)))
            .or_else(|| stages.iter().find(|stage| stage.has_type(name)))
            .cloned()
            .ok_or_else(|| unknown(name, &stages))
    }

    /// The names of all stages: the built-in ones, then those registered, in that order.
    ///
    /// ```
    /// # #[cfg(feature = "zlib")]
    /// assert_eq!(kombu_serializers::Registry::default().stages().names()[0], "zlib");
    /// ```
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let stages = self.0.read();
        stages.iter().map(|stage| stage.name().to_owned()).collect()
    }
}

impl fmt::Debug for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stages").field(&self.names()).finish()
    }
}

#[cold]
fn unknown(name: &str, stages: &[Stage]) -> SerializerError {
    let there: Vec<&str> = stages.iter().map(Stage::name).collect();
    let way_out = if let Some(feature) = compression::missing_feature(name) {
        format!("enable the feature `{feature}`")
    } else if let Some(nearest) = nearest(name, stages) {
        format!("did you mean `{nearest}`?")
    } else {
        "choose one of these, or register it".to_owned()
    };
    let there = match there.is_empty() {
        true => "none".to_owned(),
        false => there.join(", "),
    };
    let message = format!(
        "there is no compression {}, there are {there}: {way_out}",
        quoted(name)
    );
    SerializerError::new(SerializerErrorKind::UnknownStage, message)
}

/// The name that is near enough for this one to be a typing mistake.
fn nearest<'a>(written: &str, stages: &'a [Stage]) -> Option<&'a str> {
    // A header of a message may be of any length, and the comparison takes its square.
    if written.len() > 100 {
        return None;
    }
    let names = stages.iter().flat_map(|stage| {
        let aliases = stage.aliases().iter().map(String::as_str);
        [stage.name(), stage.content_type()]
            .into_iter()
            .chain(aliases)
    });
    names
        .map(|name| (strsim::damerau_levenshtein(written, name), name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3)
        .map(|(_, name)| name)
}
