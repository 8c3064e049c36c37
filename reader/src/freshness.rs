//! What a request demands of the view's position, and how long it will wait for it.
//!
//! ```text
//! Projection-Min-Position: 1/0:42,3:7   a replica that is at least there answers
//! Projection-Min-Version: 17            the site's document must have this version or a later one
//! Prefer: wait=5                        seconds that the answer may be waited for (RFC 7240), at most 10
//! ```
//!
//! A demand that nothing meets in time is refused (`position-not-reached`), never answered with less.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

use crate::error::Error;
use crate::position::{Position, number};

/// The longest wait; a longer one is cut to it.
const WAIT_MAX: Duration = Duration::from_secs(10);

const MIN_POSITION: HeaderName = HeaderName::from_static("projection-min-position");
const MIN_VERSION: HeaderName = HeaderName::from_static("projection-min-version");
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// What a request demands; by default nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Where a replica must be to answer.
    pub(crate) position: Option<Position>,
    /// What a site's document must at least have as its version; other look-ups ignore it.
    pub(crate) version: Option<i64>,
    /// For so long the answer may be waited for; nothing is waited for without a demand, but for changes.
    pub(crate) wait: Duration,
}

impl Demand {
    /// Reads the headers. A position or version that can't be read is an error; a preference is ignored then. `waits` says
    /// that the route has something to wait for without a demand, too.
    pub(crate) fn read(headers: &HeaderMap, waits: bool) -> Result<Self, Error> {
        let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let invalid_version =
            || Error::InvalidParameter { name: "Projection-Min-Version", why: "is not a whole number from 0" };
        let position = text(&MIN_POSITION).map(|text| Position::parse(text).ok_or(Error::InvalidPosition));
        let version = text(&MIN_VERSION).map(|text| number(text).ok_or_else(invalid_version));
        let (position, version) = (position.transpose()?, version.transpose()?);
        let wait = match (&position, version) {
            (None, None) if !waits => Duration::ZERO,
            _ => preferred_wait(headers),
        };
        Ok(Self { position, version, wait })
    }
}

/// The first `wait` among the preferences that is a number of seconds.
fn preferred_wait(headers: &HeaderMap) -> Duration {
    let values = headers.get_all(PREFER).into_iter().filter_map(|value| value.to_str().ok());
    let preferences = values.flat_map(|value| value.split(','));
    let seconds = preferences.filter_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        let value = value.trim().trim_matches('"');
        let is_number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        // More digits than a number has are more than the longest wait, too.
        (name.trim().eq_ignore_ascii_case("wait") && is_number).then(|| value.parse().unwrap_or(u64::MAX))
    });
    seconds.map(Duration::from_secs).next().unwrap_or_default().min(WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn demand(headers: &[(&'static str, &'static str)]) -> Result<Demand, Error> {
        let pairs = headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        Demand::read(&pairs.collect(), false)
    }

    #[test]
    fn without_a_demand_nothing_is_waited_for() {
        assert_eq!(demand(&[("prefer", "wait=5")]).unwrap(), Demand::default());
    }

    #[test]
    fn a_wait_is_seconds_cut_to_the_longest_and_otherwise_ignored() {
        for (prefer, seconds) in [
            ("wait=3", 3),
            ("Wait = \"4\"", 4),
            ("respond-async, wait=5; foo=bar", 5),
            ("wait=10", 10),
            ("wait=11", 10),
            ("wait=99999999999999999999999", 10),
            ("wait=-1", 0),
            ("wait=1.5", 0),
            ("wait", 0),
            ("wait=", 0),
            ("soon", 0),
            ("wait=x, wait=2", 2),
        ] {
            let read = demand(&[("projection-min-version", "1"), ("prefer", prefer)]).unwrap();
            assert_eq!((read.wait, read.version), (Duration::from_secs(seconds), Some(1)), "{prefer}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        assert!(matches!(demand(&[("projection-min-position", "1/x")]), Err(Error::InvalidPosition)));
        for version in ["", "-1", "1.0", "x", "9223372036854775808"] {
            let read = demand(&[("projection-min-version", version)]);
            assert!(matches!(read, Err(Error::InvalidParameter { .. })), "{version}");
        }
    }
}
