//! The worked examples, run as a person runs them. Their own checks decide; a short run kills a few processes, `make
//! exactly-once` many.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::broker;

fn run(example: &str, arguments: &[&str]) -> Result<String> {
    let program = devstack::bin_dir()?.join("examples").join(example);
    let broker = broker()?;
    let mut command = Command::new(&program);
    command.args(["--kafka", &broker.address]).args(arguments).stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("{}\n  way out: cargo build --release --workspace --examples", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{example} ended with {}: {said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

#[test]
fn countries() -> Result<()> {
    let said = run("countries", &[])?;
    ensure!(said.contains("founded: South Sudan") && said.contains("moved its clocks"), "{said}");
    Ok(())
}

#[test]
fn checkout() -> Result<()> {
    let said = run("checkout", &["--orders", "2000", "--kills", "4"])?;
    ensure!(said.contains("4 processes were killed") && said.contains("a guest joined and left"), "{said}");
    ensure!(said.contains("each of 2000 orders has one checkout, one delivery, one invoice; stock is right"), "{said}");
    Ok(())
}

#[test]
fn import_progress() -> Result<()> {
    let said = run("import_progress", &["--imports", "20", "--jobs", "100", "--kills", "4"])?;
    ensure!(said.contains("4 instances were killed") && said.contains("a guest joined and left"), "{said}");
    ensure!(said.contains("each of 20 imports has its 100 jobs, completed once and told"), "{said}");
    Ok(())
}
