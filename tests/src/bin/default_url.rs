//! Prints the URL of the default connection of a configuration file, or what is wrong with it: for tests of what
//! the environment does.

use std::process::ExitCode;

fn main() -> ExitCode {
    let path = std::env::args().nth(1).unwrap_or_default();
    let config = kombu::from_config(path);
    match config.as_ref().map(|config| config.url("default")) {
        Ok(Ok(url)) => println!("{url}"),
        Ok(Err(error)) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
