//! The opaque token `after` of a page: where the page before it ended.
//!
//! Layout, in base64url without padding: `1` (version of the layout), then a checksum of 8 bytes (XXH3-64 over app id, NUL
//! and what follows, big endian), then the site id, NUL, and the instance id. The checksum binds the token to its app and
//! tells a token from other text; it is no secret and protects nothing: any token reads only what any client may read.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use shared::ids::{AppId, SiteId};
use xxhash_rust::xxh3::xxh3_64;

use crate::queries::PageKey;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 9;

/// The token of the page after this key.
pub(crate) fn token(app: &AppId, key: &PageKey) -> String {
    let content = [key.site_id.as_bytes(), b"\0", key.instance_id.as_bytes()].concat();
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&checksum(app, &content));
    bytes.extend_from_slice(&content);
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The key in a token; `None` when it is not a token of this app.
pub(crate) fn key(app: &AppId, token: &str) -> Option<PageKey> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
    let (header, content) = bytes.split_at_checked(HEADER_BYTES)?;
    if header[0] != VERSION || header[1..] != checksum(app, content) {
        return None;
    }
    let (site_id, instance_id) = std::str::from_utf8(content).ok()?.split_once('\0')?;
    SiteId::new(site_id).ok()?;
    Some(PageKey { site_id: site_id.to_owned(), instance_id: instance_id.to_owned() })
}

fn checksum(app: &AppId, content: &[u8]) -> [u8; 8] {
    xxh3_64(&[app.as_str().as_bytes(), b"\0", content].concat()).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(id: &str) -> AppId {
        AppId::new(id).unwrap()
    }

    #[test]
    fn a_token_gives_its_key_back_to_its_app_only() {
        for (site, instance) in [("s", "i"), ("żółw 🐢 +%?#&=", ""), (&*"x".repeat(128), &*"y".repeat(128))] {
            let after = PageKey { site_id: site.to_owned(), instance_id: instance.to_owned() };
            let text = token(&app("stores"), &after);
            assert_eq!(key(&app("stores"), &text), Some(after), "{text}");
            assert_eq!(key(&app("store"), &text), None);
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
        }
    }

    #[test]
    fn other_text_is_no_token() {
        let good = token(&app("a"), &PageKey { site_id: "s".into(), instance_id: "i".into() });
        let (cut, changed) = (&good[..good.len() - 2], good.replace('A', "B"));
        for bad in ["", "!!!", "AAAA", &"x".repeat(500), cut, &format!("{good}AA"), &changed] {
            assert_eq!(key(&app("a"), bad), None, "{bad}");
        }
    }
}
