//! The deliberate bugs of `acceptance/mutations`: whether they still fit the code, name tests that exist, and are told of. That
//! the tests find them is seen by `make mutations`, which takes an hour.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A patch of the folder.
struct Mutation {
    name: String,
    path: PathBuf,
    /// What stands before the patch.
    head: String,
}

impl Mutation {
    fn all() -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(root().join("acceptance/mutations"))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "patch") {
                continue;
            }
            let name = path.file_stem().context("a name")?.display().to_string();
            let text = std::fs::read_to_string(&path)?;
            let (head, _) = text.split_once("\n\n").with_context(|| format!("{name} has a head"))?;
            all.push(Self { name, head: head.to_owned(), path });
        }
        ensure!(all.len() > 50, "{} mutations", all.len());
        Ok(all)
    }

    fn says(&self, what: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(": "))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

#[test]
fn every_mutation_fits_the_code() -> Result<()> {
    let mut outdated = Vec::new();
    for mutation in Mutation::all()? {
        let check = Command::new("git").args(["apply", "--check"]).arg(&mutation.path).current_dir(root()).output()?;
        if !check.status.success() {
            outdated.push(format!("{}: {}", mutation.name, String::from_utf8_lossy(&check.stderr)));
        }
    }
    ensure!(outdated.is_empty(), "the code has changed below these:\n{}", outdated.join("\n"));
    Ok(())
}

#[test]
fn every_mutation_breaks_a_rule_and_names_a_test_that_exists() -> Result<()> {
    let sources = sources()?;
    for mutation in Mutation::all()? {
        let name = &mutation.name;
        for what in ["Rule", "Breaks"] {
            ensure!(mutation.says(what).is_some(), "{name} does not say {what}");
        }
        ensure!(mutation.says("Test").or(mutation.says("Torture")).is_some(), "{name} names nothing that finds it");
        if let Some(test) = mutation.says("Test") {
            let function = test.rsplit([' ', ':']).next().unwrap_or_default();
            ensure!(sources.contains(&format!("fn {function}(")), "{name} names the test {test}, which is not there");
        }
    }
    let seeds: Vec<_> = Mutation::all()?.iter().filter_map(|m| m.says("Torture").map(str::to_owned)).collect();
    ensure!(seeds.len() >= 8, "the checker of random faults has to find at least 8 bugs: {seeds:?}");
    Ok(())
}

#[test]
fn the_list_of_rules_tells_of_every_mutation_and_of_no_other() -> Result<()> {
    let text = std::fs::read_to_string(root().join("docs/correctness.md"))?;
    let told: BTreeSet<&str> = text.split('`').filter_map(|code| code.strip_suffix(".patch")).collect();
    let all = Mutation::all()?;
    let there: BTreeSet<&str> = all.iter().map(|mutation| mutation.name.as_str()).collect();
    let (missing, unknown): (Vec<_>, Vec<_>) = (there.difference(&told).collect(), told.difference(&there).collect());
    ensure!(missing.is_empty() && unknown.is_empty(), "not told: {missing:?}; not there: {unknown:?}");
    Ok(())
}

/// The text of every crate that holds tests, this one's own among them.
fn sources() -> Result<String> {
    let mut text = String::new();
    for folder in ["writer", "messaging", "shared", "reader", "console", "jobs", "importer", "notifier", "acceptance"] {
        collect(&root().join(folder), &mut text)?;
    }
    Ok(text)
}

fn collect(folder: &Path, text: &mut String) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => collect(&path, text)?,
            false if path.extension().is_some_and(|extension| extension == "rs") => {
                text.push_str(&std::fs::read_to_string(&path)?);
            }
            false => {}
        }
    }
    Ok(())
}
