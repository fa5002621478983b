//! OCCO's configuration, for its four programs.

use kombu::occo::Config;
use kombu::serializers::Registry;
use kombu::{Error, ErrorKind};
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    mqconfig: Config,
}

/// What `occo.yaml` says, but for where the broker is.
pub(crate) fn config(url: &str) -> kombu::Result<Config> {
    let yaml = Registry::default().by_name("yaml")?;
    let file: File = yaml.decode(include_bytes!("occo.yaml"))?;
    let mut config = file.mqconfig;
    if config.queue.as_deref() != Some("test") {
        return Err(Error::new(
            ErrorKind::Config,
            "not the file that comes with this",
        ));
    }
    config.url = Some(url.to_owned());
    Ok(config)
}
