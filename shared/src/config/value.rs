//! Parsers of values for clap's `value_parser`; clap adds the argument's name to their errors.

use std::time::Duration;

/// A duration with units, as `1s`, `250ms`, `8d`, `1h 30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write a duration such as 250ms, 30s or 8d"))
}

/// A duration from `min` to `max`, both included.
pub fn duration_between(
    min: Duration,
    max: Duration,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| match duration(text)? {
        found if (min..=max).contains(&found) => Ok(found),
        _ => Err(format!("must be from {} to {}", humantime::format_duration(min), humantime::format_duration(max))),
    }
}

/// A number of bytes, plain or with a binary unit: `4096`, `64KiB`, `16MiB`, `1GiB` (also written with a space).
pub fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        other => return Err(format!("unknown unit {other:?}; write bytes, or KiB, MiB, GiB")),
    };
    let number: u64 = number.parse().map_err(|_| "write a number of bytes such as 4096 or 16MiB".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "is too large".to_owned())
}

/// A number of bytes from `min` to `max`, both included.
pub fn bytes_between(min: u64, max: u64) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text| match bytes(text)? {
        found if (min..=max).contains(&found) => Ok(found),
        _ => Err(format!("must be from {min} to {max} bytes")),
    }
}

/// The base URL of a server that is spoken to in plain HTTP.
pub(super) fn http_url(text: &str) -> Result<String, String> {
    match text.strip_prefix("http://") {
        Some(place) if !place.trim_end_matches('/').is_empty() => Ok(text.to_owned()),
        _ => {
            Err("must be a URL such as http://collector:4318; TLS is left to a collector beside the service".to_owned())
        }
    }
}

/// Directives of a log filter, kept as text once they are known to parse.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
