//! What the compiler says to mistakes that are made with handlers: each names the way out.
//!
//! Every file in `mistakes/` is a program with one mistake. Its header has what the compiler has to say, a line for each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

#[test]
fn mistakes_are_told_with_their_way_out() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mistakes");
    fs::create_dir_all(&package).unwrap();
    let mut manifest = format!(
        "[package]\nname = \"mistakes\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\nkombu = {{ path = {:?}, default-features = false }}\n",
        root.display().to_string()
    );
    let mut mistakes = Vec::new();
    for entry in fs::read_dir(root.join("tests/mistakes")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let expected = text.lines().map_while(|line| line.strip_prefix("//! "));
        let expected: Vec<String> = expected.map(str::to_owned).collect();
        assert!(!expected.is_empty(), "{name} expects nothing");
        let path = path.display().to_string();
        write!(manifest, "\n[[bin]]\nname = {name:?}\npath = {path:?}\n").unwrap();
        mistakes.push((name, expected));
    }
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    fs::copy(root.join("Cargo.lock"), package.join("Cargo.lock")).unwrap();
    let mut problems = Vec::new();
    for (name, expected) in mistakes {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let checked = Command::new(cargo)
            .args([
                "check",
                "--quiet",
                "--offline",
                "--color",
                "never",
                "--bin",
                &name,
            ])
            .arg("--manifest-path")
            .arg(package.join("Cargo.toml"))
            .env("CARGO_TARGET_DIR", package.join("target"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&checked.stderr);
        if checked.status.success() {
            problems.push(format!("{name} compiles"));
        }
        for text in expected {
            if !said.contains(&text) {
                problems.push(format!("{name}: nothing says `{text}`, but:\n{said}"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
