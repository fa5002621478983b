use std::time::Duration;

use tokio::signal;

use crate::{Connection, DrainReport, Error, ErrorKind, Result};

/// Resolves when the process is asked to end: by Ctrl-C, and on Unix by `SIGTERM` too.
///
/// # Errors
///
/// [`ErrorKind::Config`] if the signal handler can't be installed.
pub async fn shutdown_signal() -> Result<()> {
    #[cfg(unix)]
    {
        let mut terminate =
            signal::unix::signal(signal::unix::SignalKind::terminate()).map_err(no_handler)?;
        tokio::select! {
            pressed = signal::ctrl_c() => pressed.map_err(no_handler),
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    signal::ctrl_c().await.map_err(no_handler)
}

/// Waits for the first signal and [drains](Connection::drain) the connection; a second signal closes it at
/// once.
///
/// ```no_run
/// # async fn serve(connection: kombu::Connection) -> kombu::Result<()> {
/// use std::time::Duration;
///
/// let report = kombu::drain_on_signal(&connection, Duration::from_secs(30)).await?;
/// println!("{} deliveries were settled, {} went back", report.settled, report.unsettled);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Those of [`shutdown_signal`] and of closing.
pub async fn drain_on_signal(connection: &Connection, grace: Duration) -> Result<DrainReport> {
    shutdown_signal().await?;
    tokio::select! {
        report = connection.drain(grace) => report,
        forced = shutdown_signal() => {
            forced?;
            // Nothing left to wait for: what is under way is counted, and the connection closed.
            connection.drain(Duration::ZERO).await
        }
    }
}

fn no_handler(problem: std::io::Error) -> Error {
    Error::new(
        ErrorKind::Config,
        "no handler for signals can be installed here; end the program another way, and call \
         `connection.drain`",
    )
    .with_source(problem)
}
