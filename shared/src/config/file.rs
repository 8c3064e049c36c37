//! The TOML file: flat keys that become the defaults of a command's arguments.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::Command;
use clap::error::ErrorKind;

use super::{is_secret, key, settings};

/// The path after `--config`, read before clap does because the file decides clap's defaults.
pub(super) fn path_in(argv: &[OsString]) -> Option<PathBuf> {
    let mut rest = argv.iter().skip(1).take_while(|arg| *arg != "--");
    while let Some(arg) = rest.next() {
        if arg == "--config" {
            return rest.next().map(PathBuf::from);
        }
        if let Some(path) = arg.as_encoded_bytes().strip_prefix(b"--config=") {
            return Some(PathBuf::from(String::from_utf8_lossy(path).into_owned()));
        }
    }
    None
}

/// Makes the values of the file the defaults of the command's arguments.
///
/// Errors: no such file, not TOML, a key that no flag has, a value that is a table. Values are checked by clap when it
/// parses, as if they had been given by flag.
pub(super) fn with_defaults(mut command: Command, path: &Path) -> Result<Command, clap::Error> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| command.error(ErrorKind::Io, format!("--config {shown}: {error}")))?;
    let table = text.parse::<toml::Table>().map_err(|error| {
        // The error's own text would quote the line, which may hold a secret.
        let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        command.error(ErrorKind::InvalidValue, format!("--config {shown}, line {line}: {}", error.message()))
    })?;
    for (name, value) in table {
        let Some(id) = settings(&command).find(|arg| key(arg) == name).map(|arg| arg.get_id().clone()) else {
            let known = settings(&command).map(key).collect::<Vec<_>>().join(", ");
            let message = format!("--config {shown}: unknown key `{name}`; known keys: {known}");
            return Err(command.error(ErrorKind::UnknownArgument, message));
        };
        let Some(value) = scalar(&value) else {
            let message = format!("--config {shown}: `{name}` is a table; keys are flat");
            return Err(command.error(ErrorKind::InvalidValue, message));
        };
        command = command.mut_arg(id, |arg| {
            let secret = is_secret(&arg);
            arg.required(false).hide_default_value(secret).default_value(OsStr::new(&value).to_os_string())
        });
    }
    Ok(command)
}

/// The text that a flag would have been given; an array is joined by commas.
fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) | toml::Value::Datetime(_) => {
            Some(value.to_string())
        }
        toml::Value::Array(values) => values.iter().map(scalar).collect::<Option<Vec<_>>>().map(|v| v.join(",")),
        toml::Value::Table(_) => None,
    }
}
