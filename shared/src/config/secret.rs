//! Secrets: values that no log, error or answer may show.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::Invalid;

const MASK: &str = "***";

/// A text that shows as `***`. Any text is one, so that no parser has a reason to repeat it in an error.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself; the caller keeps it out of logs and errors.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Resolves a pair `X` / `X_FILE`, where `name` is `X`: the value itself, or the content of the file without its last
/// newline (Kubernetes and Docker mount secrets as files).
///
/// `None` when neither is set. Both set, or a file that can't be read, is [`Invalid`] and names the variable.
pub fn secret_from(name: &str, value: Option<Secret>, file: Option<PathBuf>) -> Result<Option<Secret>, Invalid> {
    match (value, file) {
        (Some(_), Some(_)) => Err(Invalid::new(name, format!("set either {name} or {name}_FILE, not both"))),
        (Some(value), None) => Ok(Some(value)),
        (None, None) => Ok(None),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(&path)
                .map_err(|error| Invalid::new(format!("{name}_FILE"), format!("{}: {error}", path.display())))?;
            let text = text.strip_suffix('\n').unwrap_or(&text);
            Ok(Some(Secret(text.strip_suffix('\r').unwrap_or(text).to_owned())))
        }
    }
}

/// One or more URLs (separated by commas) without their passwords and queries, which may hold one:
/// `postgres://user:***@host:5432/db`. Anything that does not look like URLs becomes `***` as a whole.
pub fn mask_urls(urls: &str) -> String {
    let masked: Option<Vec<_>> = urls.split(',').map(|url| mask_url(url.trim())).collect();
    masked.map_or_else(|| MASK.to_owned(), |urls| urls.join(","))
}

/// `None` when the text does not have the form of a URL, so that nothing of it can be shown.
fn mask_url(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    // The last `@`: a password may hold one that nobody escaped.
    let (login, place) = rest.rsplit_once('@').map_or((None, rest), |(login, place)| (Some(login), place));
    let place = place.split(['?', '#']).next().unwrap_or_default();
    match login.map(|login| login.split_once(':').ok_or(login)) {
        Some(Ok((user, _))) => Some(format!("{scheme}://{user}:{MASK}@{place}")),
        Some(Err(user)) => Some(format!("{scheme}://{user}@{place}")),
        None => {
            // Without a login, what follows a colon is a port; anything else may be half of a broken login.
            let host = place.split('/').next().unwrap_or_default();
            let port = host.rsplit_once(':').map_or("", |(_, port)| port);
            port.bytes().all(|b| b.is_ascii_digit()).then(|| format!("{scheme}://{place}"))
        }
    }
}
