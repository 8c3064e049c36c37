//! What every request passes: who sent it, whether a foreign page made a browser send it, and the headers of each answer.
//!
//! A bearer token is sent by who means it. A cookie is sent by the browser, whoever made it ask, and so is a request to a console
//! without tokens; there, what changes something must carry `X-Console: 1`, which a page of another origin cannot add, and come from
//! this origin. Without tokens the name that was asked must be a loopback one too: a foreign name that resolves to this machine (DNS
//! rebinding) would make its page one of this origin.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{access::Caller, app::App, error::Error, page};

/// Name of the cookie that holds a session's id.
const COOKIE: &str = "siteview-console";
/// What a script of this origin sends along.
const MARK: &str = "x-console";

/// Sets the caller, or refuses the request.
pub(crate) async fn admit(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let answer = match caller(&app, &request) {
        Ok(Some(caller)) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Ok(None) if is_public(&request) => next.run(request).await,
        Ok(None) if request.uri().path() == "/" => page::sign_in().into_response(),
        Ok(None) => Error::Unauthorized.into_response(),
        Err(error) => error.into_response(),
    };
    with_headers(answer)
}

fn caller(app: &App, request: &Request) -> Result<Option<Caller>, Error> {
    let headers = request.headers();
    if let Some(token) = bearer(headers) {
        return app.access.by_token(token).map(Some).ok_or(Error::Unauthorized);
    }
    let everybody = app.access.everybody();
    if everybody.is_some() && !host(headers).is_some_and(is_loopback) {
        return Err(Error::CrossSite("without tokens the console answers to localhost, 127.0.0.1 and [::1] only"));
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        same_origin(headers)?;
    }
    Ok(everybody.or_else(|| session_id(headers).and_then(|id| app.access.by_session(id))))
}

/// Style and script of the sign-in page, and signing in.
fn is_public(request: &Request) -> bool {
    request.uri().path().starts_with("/assets/") || request.uri().path() == "/v1/session"
}

fn same_origin(headers: &HeaderMap) -> Result<(), Error> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if text(MARK) != Some("1") {
        return Err(Error::CrossSite("what changes something wants a bearer token, or the header X-Console: 1"));
    }
    let origin = text("origin").and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    let is_foreign = (text("origin").is_some() && origin != host(headers))
        || text("sec-fetch-site").is_some_and(|site| site != "same-origin");
    if is_foreign { Err(Error::CrossSite("a page of another origin asked for this")) } else { Ok(()) }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST)?.to_str().ok()
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, _)) => name,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    ["localhost", "127.0.0.1", "::1"].contains(&name)
}

/// The session that a browser sends.
pub(crate) fn session_id(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, id)| id)
}

/// A cookie that scripts cannot read and other sites cannot have sent; `None` takes it back.
pub(crate) fn session_cookie(headers: &HeaderMap, session: Option<&str>) -> HeaderValue {
    let age = session.map_or(0, |_| crate::access::SESSION_AGE_MAX.as_secs());
    let is_secure = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
    let secure = if is_secure { "; Secure" } else { "" };
    let id = session.unwrap_or_default();
    let cookie = format!("{COOKIE}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}");
    HeaderValue::try_from(cookie).expect("an id is base64")
}

fn with_headers(mut answer: Response) -> Response {
    let fixed = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
            base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in fixed {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    for (name, value) in
        [("cross-origin-opener-policy", "same-origin"), ("cross-origin-resource-policy", "same-origin")]
    {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for (host, expected) in [
            ("localhost:8083", true),
            ("127.0.0.1", true),
            ("[::1]:8083", true),
            ("localhost.example.org:80", false),
            ("127.0.0.1.example.org", false),
            ("10.0.0.7:8083", false),
        ] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }

    #[test]
    fn a_foreign_page_cannot_change_anything() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let pair = |(name, value): &(&'static str, &'static str)| {
                (header::HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            pairs.iter().map(pair).collect::<HeaderMap>()
        };
        let (host, mark) = (("host", "localhost:1"), (MARK, "1"));
        for (pairs, passes) in [
            (&[host, mark][..], true),
            (&[host, mark, ("origin", "http://localhost:1"), ("sec-fetch-site", "same-origin")], true),
            (&[host], false),
            (&[host, mark, ("origin", "http://evil.example")], false),
            (&[host, mark, ("origin", "null")], false),
            (&[host, mark, ("sec-fetch-site", "cross-site")], false),
        ] {
            assert_eq!(same_origin(&headers(pairs)).is_ok(), passes, "{pairs:?}");
        }
    }

    #[test]
    fn a_session_is_found_among_cookies() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static("a=b; siteview-console=xyz; c=d"));
        assert_eq!(session_id(&headers), Some("xyz"));
        assert!(session_cookie(&headers, Some("xyz")).to_str().unwrap().contains("HttpOnly; SameSite=Strict"));
    }
}
