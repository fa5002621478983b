//! Finds the cases, so that none can be written and then not be run: every `pub async fn` below `src/cases` gets
//! an entry in the table and a test in the macro.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=src/cases");
    let out = env::var("OUT_DIR")?;
    let cases = Module::read(Path::new("src/cases"), String::new())?;

    let mut table = String::from("pub(crate) static ALL: &[crate::Case] = &[\n");
    cases.write_table("", &mut table)?;
    table.push_str("];\n");
    fs::write(Path::new(&out).join("table.rs"), table)?;

    let mut tests = String::from(
        "#[doc(hidden)]\n#[macro_export]\nmacro_rules! __each_case {\n($($attribute:tt)*) => {\n",
    );
    cases.write_tests("", &mut tests)?;
    tests.push_str("};\n}\n");
    fs::write(Path::new(&out).join("each_case.rs"), tests)?;
    Ok(())
}

#[derive(Default)]
struct Module {
    name: String,
    cases: Vec<String>,
    modules: Vec<Module>,
}

impl Module {
    fn read(path: &Path, name: String) -> Result<Self, Box<dyn Error>> {
        let mut module = Module {
            name,
            ..Module::default()
        };
        if path.is_file() {
            module.add_cases(path)?;
            return Ok(module);
        }
        let mut entries = fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            let path = entry.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            match stem.ok_or("a case's file needs a name in UTF-8")? {
                "mod" => module.add_cases(&path)?,
                stem => module.modules.push(Module::read(&path, stem.to_owned())?),
            }
        }
        Ok(module)
    }

    fn add_cases(&mut self, path: &Path) -> Result<(), Box<dyn Error>> {
        for line in fs::read_to_string(path)?.lines() {
            if let Some(signature) = line.strip_prefix("pub async fn ") {
                let end = signature
                    .find(['(', '<'])
                    .ok_or("a function has arguments")?;
                self.cases.push(signature[..end].to_owned());
            }
        }
        Ok(())
    }

    fn write_table(&self, path: &str, out: &mut String) -> std::fmt::Result {
        for case in &self.cases {
            writeln!(
                out,
                "crate::Case::new(\"{path}{case}\", |broker| Box::pin(crate::cases::{path}{case}(broker))),"
            )?;
        }
        for module in &self.modules {
            module.write_table(&format!("{path}{}::", module.name), out)?;
        }
        Ok(())
    }

    fn write_tests(&self, path: &str, out: &mut String) -> std::fmt::Result {
        for case in &self.cases {
            writeln!(
                out,
                "#[test] $($attribute)* fn {case}() {{ $crate::run(harness(), \"{path}{case}\"); }}"
            )?;
        }
        for module in &self.modules {
            writeln!(out, "mod {} {{ use super::harness;", module.name)?;
            module.write_tests(&format!("{path}{}::", module.name), out)?;
            writeln!(out, "}}")?;
        }
        Ok(())
    }
}
