use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// A program that is silent for longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that takes and prints lines of JSON. It ends when it is dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// Python with these arguments: the one of `KOMBU_TEST_PYTHON`, which has what `scripts/install-python` installs.
    /// What it prints as errors is shown.
    ///
    /// # Panics
    ///
    /// If it can't be started.
    pub fn start(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let python =
            std::env::var_os("KOMBU_TEST_PYTHON").expect("KOMBU_TEST_PYTHON says where Python is");
        Self::run(Command::new(python).args(arguments))
    }

    /// Any program. What it prints as errors is shown.
    ///
    /// # Panics
    ///
    /// If it can't be started.
    pub fn run(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let output = child.stdout.take().expect("it has an output");
        Peer {
            input: child.stdin.take(),
            output: BufReader::new(output).lines(),
            child,
        }
    }

    /// Hands it a line.
    ///
    /// # Panics
    ///
    /// If it has ended.
    pub async fn tell(&mut self, line: &Value) {
        let input = self.input.as_mut().expect("it listens until `end`");
        let written = input.write_all(format!("{line}\n").as_bytes()).await;
        written.expect("it reads its input");
    }

    /// The next line that it prints.
    ///
    /// # Panics
    ///
    /// If it ends before, is silent for too long, or the line isn't JSON.
    pub async fn line(&mut self) -> Value {
        let line = timeout(PATIENCE, self.output.next_line()).await;
        let line = line.expect("it isn't silent").expect("it can be read");
        let line = line.expect("it doesn't end before");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"))
    }

    /// Waits until it ends, as it does when its input ends and all is done.
    ///
    /// # Panics
    ///
    /// If it fails, or prints more.
    pub async fn end(mut self) {
        drop(self.input.take());
        let rest = timeout(PATIENCE, self.output.next_line()).await;
        let rest = rest.expect("it isn't silent").expect("it can be read");
        assert_eq!(rest, None, "more than was expected");
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status.expect("it ends").expect("it can be waited for");
        assert!(status.success(), "{status}");
    }

    /// Waits until it ends as it must not, and returns what it printed.
    ///
    /// # Panics
    ///
    /// If it is fine, or goes on for too long.
    pub async fn died(mut self) -> Vec<Value> {
        let mut printed = Vec::new();
        let reading = async {
            while let Some(line) = self.output.next_line().await.expect("it can be read") {
                let line = serde_json::from_str(&line);
                printed.push(line.expect("it prints JSON"));
            }
        };
        timeout(PATIENCE, reading).await.expect("it ends");
        let status = self.child.wait().await.expect("it can be waited for");
        assert!(!status.success(), "{status}");
        printed
    }

    /// Kills it, and returns what it had printed that wasn't read.
    ///
    /// # Panics
    ///
    /// If it has ended before.
    pub async fn kill(mut self) -> Vec<Value> {
        self.child.kill().await.expect("it is there to be killed");
        let mut rest = Vec::new();
        while let Ok(Some(line)) = self.output.next_line().await {
            // The last one may have been cut.
            rest.extend(serde_json::from_str(&line).ok());
        }
        rest
    }

    /// Ends its input, and returns what it prints until it ends.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub async fn rest(mut self) -> Vec<Value> {
        drop(self.input.take());
        let mut rest = Vec::new();
        let reading = async {
            while let Some(line) = self.output.next_line().await.expect("it can be read") {
                let line = serde_json::from_str(&line);
                rest.push(line.expect("it prints JSON"));
            }
        };
        timeout(PATIENCE, reading).await.expect("it ends");
        let status = self.child.wait().await.expect("it can be waited for");
        assert!(status.success(), "{status}");
        rest
    }
}
