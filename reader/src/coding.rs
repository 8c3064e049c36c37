//! Content codings: gzip and zstd, when the client asks and it is worth it.
//!
//! Answers are whole in memory, so each is compressed in one call and keeps a `Content-Length`.

use std::io::Write;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

/// Below this a packet is saved by nothing and the coding's frame eats what it gains.
const WORTH_BYTES_MIN: usize = 1024;

/// Beyond this a compression takes longer than a worker, with all its clients, should be held: it moves to the blocking pool.
const INLINE_BYTES_MAX: usize = 16 << 10;

/// Fast levels: the reader's processors are dearer than the last tenth of size.
const GZIP_LEVEL: u32 = 3;
const ZSTD_LEVEL: i32 = 1;

/// A coding that the reader can apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    Zstd,
}

impl Coding {
    /// The best coding that `Accept-Encoding` takes for a body of this size (RFC 9110, 12.5.3): the one with the highest
    /// weight, and zstd of equals. `None` is identity, also where the client refuses it: an answer it did not want beats none.
    pub(crate) fn wanted(headers: &HeaderMap, body_bytes: usize) -> Option<Coding> {
        if body_bytes < WORTH_BYTES_MIN {
            return None;
        }
        let lines = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        let items: Vec<(&str, u16)> = lines.flat_map(|line| line.split(',')).filter_map(item).collect();
        let weight = |names: &[&str]| {
            let named = items.iter().filter(|(name, _)| names.iter().any(|n| name.eq_ignore_ascii_case(n)));
            named.map(|(_, weight)| *weight).max()
        };
        let any = weight(&["*"]).unwrap_or(0);
        let zstd = weight(&["zstd"]).unwrap_or(any);
        let gzip = weight(&["gzip", "x-gzip"]).unwrap_or(any);
        let identity = weight(&["identity"]).unwrap_or(0);
        match zstd.max(gzip) {
            0 => None,
            best if best < identity => None,
            best if best == zstd => Some(Coding::Zstd),
            _ => Some(Coding::Gzip),
        }
    }

    /// The coding's name in `Content-Encoding`.
    pub(crate) const fn name(self) -> HeaderValue {
        match self {
            Coding::Gzip => HeaderValue::from_static("gzip"),
            Coding::Zstd => HeaderValue::from_static("zstd"),
        }
    }

    /// Compresses a body; `None` when it can't be made smaller.
    pub(crate) async fn apply(self, body: &Bytes) -> Option<Bytes> {
        let coded = if body.len() <= INLINE_BYTES_MAX {
            self.compress(body)
        } else {
            let body = body.clone();
            tokio::task::spawn_blocking(move || self.compress(&body)).await.ok()?
        };
        coded.ok().filter(|coded| coded.len() < body.len()).map(Bytes::from)
    }

    fn compress(self, body: &[u8]) -> std::io::Result<Vec<u8>> {
        match self {
            Coding::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL),
            Coding::Gzip => {
                let out = Vec::with_capacity(body.len() / 2);
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(GZIP_LEVEL));
                encoder.write_all(body)?;
                encoder.finish()
            }
        }
    }
}

/// One item of the list and its weight in thousandths; `None` when it is not readable, which is as if it were not there.
fn item(text: &str) -> Option<(&str, u16)> {
    let (name, parameter) = text.split_once(';').unwrap_or((text, "q=1"));
    let weight = parameter.trim().strip_prefix("q=").or_else(|| parameter.trim().strip_prefix("Q="))?;
    let weight: f32 = weight.parse().ok()?;
    (0.0..=1.0).contains(&weight).then_some((name.trim(), (weight * 1000.0) as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_weight_wins_and_zstd_of_equals() {
        for (accept, want) in [
            ("gzip", Some(Coding::Gzip)),
            ("zstd", Some(Coding::Zstd)),
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("gzip;q=1, zstd;q=0.5", Some(Coding::Gzip)),
            ("GZIP ; q=0.001", Some(Coding::Gzip)),
            ("gzip;q=0", None),
            ("*", Some(Coding::Zstd)),
            ("*, zstd;q=0", Some(Coding::Gzip)),
            ("identity, gzip;q=0.5", None),
            ("identity", None),
            ("identity;q=0", None),
            ("deflate, br", None),
            ("gzip;q=x", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(accept))]);
            assert_eq!(Coding::wanted(&headers, WORTH_BYTES_MIN), want, "{accept}");
            assert_eq!(Coding::wanted(&headers, WORTH_BYTES_MIN - 1), None, "{accept}");
        }
        assert_eq!(Coding::wanted(&HeaderMap::new(), WORTH_BYTES_MIN), None);
    }

    #[tokio::test]
    async fn coded_bodies_are_smaller_or_not_coded() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            for bytes in [2_000, 200_000] {
                let coded = coding.apply(&Bytes::from(vec![b'x'; bytes])).await;
                assert!(coded.is_some_and(|c| c.len() < bytes / 10), "{coding:?}");
            }
            assert_eq!(coding.apply(&Bytes::from_static(b"x")).await, None);
        }
    }
}
