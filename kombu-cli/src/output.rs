//! What is written, and to whom.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::Serialize;

use crate::failure::{Code, Failure, Result};

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// For programs.
    pub(crate) json: bool,
    /// Nothing but results and errors.
    pub(crate) quiet: bool,
    /// All that the library does is told, and bars would stand between.
    pub(crate) debug: bool,
}

impl Output {
    pub(crate) fn is_terminal(self) -> bool {
        io::stdout().is_terminal()
    }

    /// Writes bytes as they are, all the way to whoever reads them.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    }

    /// Writes one line.
    pub(crate) fn line(self, text: &str) -> Result<()> {
        let mut line = String::with_capacity(text.len() + 1);
        line.push_str(text);
        line.push('\n');
        self.bytes(line.as_bytes())
    }

    /// Writes one line of JSON.
    pub(crate) fn json(self, value: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(value)
            .map_err(|error| Failure::new(Code::Failed, format!("no JSON: {error}")))?;
        self.line(&line)
    }

    /// What came of it: JSON for programs, and a sentence for people, who may not want it.
    pub(crate) fn summary(self, value: &impl Serialize, sentence: &str) -> Result<()> {
        if self.json {
            return self.json(value);
        }
        if !self.quiet {
            note(sentence);
        }
        Ok(())
    }

    /// A bar on standard error, which doesn't show where that is no terminal.
    pub(crate) fn progress(self, total: Option<u64>, what: &'static str) -> ProgressBar {
        if self.quiet || self.json || self.debug {
            return ProgressBar::hidden();
        }
        let template = match total {
            Some(_) => "{msg} [{bar:30}] {pos}/{len}, {rate}, {eta} left",
            None => "{msg} {pos}, {rate}",
        };
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(8));
        if let Ok(style) = ProgressStyle::with_template(template) {
            let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
                let _ = write!(text, "{:.0}/s", state.per_sec());
            };
            bar.set_style(style.with_key("rate", rate));
        }
        bar.with_message(what)
    }
}

/// Tells people something, on standard error; where nobody reads that, nothing is told. Others' words may be in it.
pub(crate) fn note(text: &str) {
    tell(&format!("kombu: {text}\n"));
}

/// The same of whole lines.
pub(crate) fn tell(lines: &str) {
    let lines = harmless(&kombu::without_secrets(lines));
    let _ = io::stderr().write_all(lines.as_bytes());
}

/// How many there are, as one says it.
pub(crate) fn counted(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// Text that does nothing to a terminal but show itself.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\t' | '\n' => shown.push(letter),
            _ if letter.is_control() => shown.extend(letter.escape_default()),
            _ => shown.push(letter),
        }
    }
    shown
}

/// Rows in columns that are as wide as they have to be; numbers stand on the right.
pub(crate) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(heads.get(column).map_or(0, |head| head.len()))
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let numbers: Vec<bool> = (0..heads.len())
        .map(|column| {
            let mut cells = rows.iter().filter_map(|row| row.get(column));
            cells.all(|cell| cell.is_empty() || cell == "?" || cell.parse::<f64>().is_ok())
        })
        .collect();
    let mut text = String::new();
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::new();
        for ((cell, width), is_number) in row.iter().zip(&widths).zip(&numbers) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
            match is_number {
                true => line.extend([gap.as_str(), cell]),
                false => line.extend([cell, gap.as_str()]),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_told_what_to_do() {
        assert_eq!(harmless("a\tb\u{1b}[2J"), "a\tb\\u{1b}[2J");
    }

    #[test]
    fn numbers_stand_on_the_right() {
        let rows = [
            vec!["jobs".to_owned(), "7".to_owned()],
            vec!["a".to_owned(), "1000".to_owned()],
        ];
        assert_eq!(
            table(&["queue", "ready"], &rows),
            "queue  ready\njobs       7\na       1000\n"
        );
    }
}
