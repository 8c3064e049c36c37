//! A service's process around its work: the runtime, and what an end means for whoever started it.

use std::process::ExitCode;

use crate::config::Invalid;

/// Exit code of bad usage, as clap's.
const USAGE: u8 = 2;

/// What was asked for cannot be done, whatever the environment; says what to ask for instead.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Runs the work of `name` to its end and gives the exit code: that of the work, 2 for what was [`Refused`] and for a
/// configuration that turned out to be [`Invalid`] only later, 1 for every other error. Work that blocks a thread is not waited
/// for, as a broker's answer that never comes.
pub fn run(name: &str, work: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let ended = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let ended = runtime.block_on(work);
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(error.into()),
    };
    ended.unwrap_or_else(|error| fatal(name, &error))
}

fn fatal(name: &str, error: &anyhow::Error) -> ExitCode {
    if let Some(refused) = error.downcast_ref::<Refused>() {
        return refuse(refused);
    }
    tracing::error!(error = format!("{error:#}"), "{name} can't go on");
    match error.is::<Invalid>() {
        true => ExitCode::from(USAGE),
        false => ExitCode::FAILURE,
    }
}

#[expect(clippy::print_stderr, reason = "answers a command as the refusal of its arguments does")]
fn refuse(refused: &Refused) -> ExitCode {
    eprintln!("error: {refused}");
    ExitCode::from(USAGE)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn an_end_has_the_exit_code_of_its_cause() {
        let ended = |result: anyhow::Result<ExitCode>| format!("{:?}", run("the sample", async { result }));
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(ended(Ok(ExitCode::from(3))), code(3));
        assert_eq!(ended(Err(Refused("not this".to_owned()).into())), code(2));
        assert_eq!(ended(Err::<ExitCode, _>(Refused("not this".to_owned())).context("in a verb")), code(2));
        assert_eq!(ended(Err(Invalid::new("SAMPLE_X", "is odd").into())), code(2));
        assert_eq!(ended(Err(anyhow::anyhow!("the broker is away"))), code(1));
    }
}
