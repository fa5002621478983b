//! What is published: from arguments, files and standard input.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::failure::{Failure, Result};

/// More than a broker takes, as base64 too; what is larger is no message.
const LARGEST: usize = 64 * 1024 * 1024;

/// A file of this name is standard input.
pub(crate) const STANDARD_INPUT: &str = "-";

type Reader = Pin<Box<dyn AsyncBufRead + Send>>;

/// Where bodies come from.
pub(crate) enum Input {
    Arguments(VecDeque<String>),
    /// Each is one body.
    Files(VecDeque<PathBuf>),
    /// Each line is one.
    Lines(Lines),
}

/// The lines of several files, or of standard input.
pub(crate) struct Lines {
    files: VecDeque<PathBuf>,
    open: Option<Reader>,
    name: String,
    number: u64,
    /// What was read of a line when somebody stopped waiting for its end.
    begun: Vec<u8>,
}

impl Lines {
    pub(crate) fn of_files(files: Vec<PathBuf>) -> Self {
        Lines {
            files: files.into(),
            open: None,
            name: String::new(),
            number: 0,
            begun: Vec::new(),
        }
    }

    pub(crate) fn of_standard_input() -> Self {
        Lines::of_files(vec![STANDARD_INPUT.into()])
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let Some(reader) = &mut self.open else {
                let Some(file) = self.files.front() else {
                    return Ok(None);
                };
                self.name = name(file);
                self.number = 0;
                let opened = open(file).await;
                let opened = opened.map_err(|error| unreadable(&self.name, &error))?;
                // Not before it is open: somebody may stop waiting for that.
                self.files.pop_front();
                self.open = Some(opened);
                continue;
            };
            let is_over = read_line(reader, &mut self.begun)
                .await
                .map_err(|error| unreadable(&self.name, &error))?;
            if is_over {
                self.open = None;
                if self.begun.is_empty() {
                    continue;
                }
            }
            self.number += 1;
            return Ok(Some(std::mem::take(&mut self.begun)));
        }
    }
}

/// Reads up to the end of a line, which it leaves out, and answers whether that was the end of all. Cancel safe.
async fn read_line(reader: &mut Reader, line: &mut Vec<u8>) -> std::io::Result<bool> {
    loop {
        let read = reader.fill_buf().await?;
        if read.is_empty() {
            return Ok(true);
        }
        let end = read.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(&read[..end.unwrap_or(read.len())]);
        let used = end.map_or(read.len(), |end| end + 1);
        reader.as_mut().consume(used);
        if line.len() > LARGEST {
            return Err(too_large());
        }
        if end.is_some() {
            return Ok(false);
        }
    }
}

async fn open(file: &Path) -> std::io::Result<Reader> {
    if file.as_os_str() == STANDARD_INPUT {
        return Ok(Box::pin(BufReader::new(tokio::io::stdin())));
    }
    let opened = tokio::fs::File::open(file).await?;
    Ok(Box::pin(BufReader::new(opened)))
}

/// What errors call it.
fn name(file: &Path) -> String {
    match file.as_os_str() == STANDARD_INPUT {
        true => "standard input".to_owned(),
        false => file.display().to_string(),
    }
}

fn too_large() -> std::io::Error {
    std::io::Error::other(format!("more than {LARGEST} bytes are no message"))
}

fn unreadable(name: &str, error: &std::io::Error) -> Failure {
    Failure::usage(format!("{name} can't be read: {error}"))
}

impl Input {
    /// The next body, or none at the end. Cancel safe where [`waits`](Input::waits) says so.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        match self {
            Input::Arguments(bodies) => Ok(bodies.pop_front().map(String::into_bytes)),
            Input::Files(files) => {
                let Some(file) = files.pop_front() else {
                    return Ok(None);
                };
                let read = async { whole(open(&file).await?).await };
                let read = read.await;
                read.map(Some)
                    .map_err(|error| unreadable(&name(&file), &error))
            }
            Input::Lines(lines) => lines.next().await,
        }
    }

    /// Whether the next body may be long in coming.
    pub(crate) fn waits(&self) -> bool {
        matches!(self, Input::Lines(_))
    }

    /// Where the last body came from, for errors.
    pub(crate) fn place(&self) -> Option<String> {
        match self {
            Input::Lines(lines) => Some(format!("{}, line {}", lines.name, lines.number)),
            _ => None,
        }
    }
}

async fn whole(reader: impl tokio::io::AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = LARGEST as u64 + 1;
    reader.take(limit).read_to_end(&mut bytes).await?;
    match bytes.len() > LARGEST {
        true => Err(too_large()),
        false => Ok(bytes),
    }
}
