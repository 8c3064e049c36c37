//! The headers of every answer: nothing foreign is loaded, framed or guessed; the page may talk to this service and to the notifier.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, header},
    middleware::Next,
    response::Response,
};
use url::Url;

use crate::app::App;

/// Adds them. Changing requests need no further mark of their page: without the unguessable id of a channel or an import, which no
/// cookie carries, they do nothing.
pub(crate) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut answer = next.run(request).await;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy(&app.config.notifier_url));
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}

fn policy(notifier: &Url) -> HeaderValue {
    let (http, socket) = (notifier.origin().ascii_serialization(), socket_url(notifier).origin());
    let socket = match socket {
        url::Origin::Tuple(scheme, host, port) => format!("{scheme}://{host}:{port}"),
        url::Origin::Opaque(_) => String::new(),
    };
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' {http} {socket}; \
        base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("a URL's origin is ASCII")
}

/// The notifier's address for websockets: `ws` for `http`, `wss` for `https`.
pub(crate) fn socket_url(notifier: &Url) -> Url {
    let text = notifier.as_str().replacen("http", "ws", 1);
    Url::parse(&text).expect("the scheme alone was changed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_may_talk_to_the_notifier_in_both_ways() {
        let policy = |url: &str| policy(&Url::parse(url).unwrap()).to_str().unwrap().to_owned();
        let told = policy("http://127.0.0.1:8082");
        assert!(told.contains("connect-src 'self' http://127.0.0.1:8082 ws://127.0.0.1:8082;"), "{told}");
        let told = policy("https://n.example/path");
        assert!(told.contains("connect-src 'self' https://n.example wss://n.example:443;"), "{told}");
    }
}
