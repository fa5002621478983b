use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use rustix::process::{Pid, Signal, kill_process_group};

/// How long a program that was asked to end may take.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(10);

/// A program with all that it started: a process group of its own. Dropping it kills the group.
pub(super) struct Process {
    child: Child,
    guardian: Child,
}

impl Process {
    /// Starts a program. If we die without a chance to end it, it is killed, and the folder removed.
    pub(super) fn start(command: &mut Command, folder: &Path) -> io::Result<Self> {
        let mut child = command.process_group(0).stdin(Stdio::null()).spawn()?;
        match guard(&child, folder) {
            Ok(guardian) => Ok(Process { child, guardian }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal to all of them.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        signal_group(&self.child, signal)
    }

    /// Whether every thread of all of them has stopped, as far as the system tells.
    pub(super) fn is_stopped(&self) -> bool {
        let group = self.child.id().to_string();
        let Ok(processes) = std::fs::read_dir("/proc") else {
            return true;
        };
        for process in processes.flatten() {
            if is_in_group(&process.path(), &group) && !is_each_stopped(&process.path()) {
                return false;
            }
        }
        true
    }

    /// Asks all of them to end, and waits for the first.
    pub(super) fn stop(mut self) -> io::Result<()> {
        self.signal(Signal::TERM)?;
        // One that is paused hears nothing.
        self.signal(Signal::CONT)?;
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended() {
            if Instant::now() > deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("it didn't end within {PATIENCE:?}, and was killed"),
                ));
            }
            thread::sleep(STEP);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // First, so that it never kills a group of somebody else who got the same number.
        drop(self.guardian.kill());
        drop(self.guardian.wait());
        // Nobody gets the number of a child before we have waited for it.
        if !self.has_ended() {
            drop(self.signal(Signal::KILL));
            drop(self.child.wait());
        }
    }
}

/// Runs a program that reads `input`, and returns what it printed. One that takes longer than `patience` is killed.
pub(super) fn output(command: &mut Command, input: &str, patience: Duration) -> io::Result<Output> {
    let command = command.process_group(0).stdin(Stdio::piped());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut to) = child.stdin.take() {
        let input = input.to_owned();
        // One that ends before it has read everything says why itself.
        thread::spawn(move || drop(to.write_all(input.as_bytes())));
    }
    let printed = child.stdout.take().map(all_of);
    let errors = child.stderr.take().map(all_of);
    let is_read = |reading: &Option<JoinHandle<_>>| {
        let reading = reading.as_ref();
        reading.is_none_or(JoinHandle::is_finished)
    };
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait()?
            && is_read(&printed)
            && is_read(&errors)
        {
            break status;
        }
        if Instant::now() > deadline {
            drop(signal_group(&child, Signal::KILL));
            child.wait()?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("it didn't end within {patience:?}, and was killed"),
            ));
        }
        thread::sleep(STEP);
    };
    let read = |reading: Option<JoinHandle<Vec<u8>>>| {
        let read = reading.and_then(|reading| reading.join().ok());
        read.unwrap_or_default()
    };
    Ok(Output {
        status,
        stdout: read(printed),
        stderr: read(errors),
    })
}

/// Reads beside whoever waits for the program: a pipe that nobody reads is full soon.
fn all_of(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut read = Vec::new();
        // What was read until then is there.
        drop(pipe.read_to_end(&mut read));
        read
    })
}

fn signal_group(child: &Child, signal: Signal) -> io::Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let group = group.ok_or_else(|| io::Error::other("no process has this number"))?;
    Ok(kill_process_group(group, signal)?)
}

/// What `stat` says behind the name of the program, which may have blanks in it: state, parent, process group.
fn fields(folder: &Path) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(folder.join("stat")).ok()?;
    let (_, behind) = text.rsplit_once(')')?;
    Some(behind.split_whitespace().map(str::to_owned).collect())
}

fn is_in_group(process: &Path, group: &str) -> bool {
    fields(process).is_some_and(|fields| fields.get(2).is_some_and(|found| found == group))
}

fn is_each_stopped(process: &Path) -> bool {
    let Ok(threads) = std::fs::read_dir(process.join("task")) else {
        return true;
    };
    threads.flatten().all(|thread| {
        let state = fields(&thread.path()).and_then(|fields| fields.first().cloned());
        // One that has ended doesn't go on either.
        state.is_none_or(|state| matches!(state.as_str(), "T" | "t" | "Z" | "X"))
    })
}

/// A process that waits until its input ends, as it does when we are no more, however that came.
fn guard(child: &Child, folder: &Path) -> io::Result<Child> {
    let script =
        "read -r _; kill -s KILL -- \"-$1\"; rm -rf -- \"$2\" || { sleep 1; rm -rf -- \"$2\"; }";
    Command::new("sh")
        .args(["-c", script, "sh", &child.id().to_string()])
        .arg(folder)
        // Ctrl-C in a terminal is for all of its group.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, input: &str, patience: Duration) -> io::Result<Output> {
        output(Command::new("sh").args(["-c", script]), input, patience)
    }

    #[test]
    fn a_program_that_ends_before_it_has_read_everything_says_why() {
        let much = "much ".repeat(1 << 20);
        let output = shell("echo why; echo wrong >&2; exit 3", &much, PATIENCE).unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(
            (&output.stdout[..], &output.stderr[..]),
            (&b"why\n"[..], &b"wrong\n"[..])
        );
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed_with_all_that_it_started() {
        for script in ["sleep 600", "sleep 600 &"] {
            let error = shell(script, "", 10 * STEP).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        }
    }
}
