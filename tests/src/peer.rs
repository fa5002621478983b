use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// A program that is silent for longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Python program that takes and prints lines of JSON. It ends when it is dropped.
///
/// It runs in the Python of `KOMBU_TEST_PYTHON`, which has what `scripts/install-python` installs.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// Python with these arguments. What it prints as errors is shown.
    ///
    /// # Panics
    ///
    /// If it can't be started.
    pub fn start(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let python =
            std::env::var_os("KOMBU_TEST_PYTHON").expect("KOMBU_TEST_PYTHON says where Python is");
        let mut child = Command::new(python)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Python starts");
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
}
