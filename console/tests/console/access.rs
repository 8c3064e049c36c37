//! Who may do what, and what a foreign page cannot.

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use tokio::time::timeout;

use crate::stage::{Console, DEADLINE, Stage};

/// Makes a token by the verb; gives it and its entry.
pub async fn token(stage: &Stage, name: &str, role: &str) -> Result<(String, String)> {
    let (printed, code) = stage.verb(&["token", "--name", name, "--role", role]).await?;
    ensure!(code == 0);
    let (token, entry) = printed.as_str().context("text")?.split_once("\n\n").context("a token and its entry")?;
    Ok((token.to_owned(), format!("{entry}\n")))
}

struct Asked<'a> {
    method: Method,
    path: &'a str,
    body: Option<Value>,
    headers: Vec<(&'a str, String)>,
}

fn get(path: &str) -> Asked<'_> {
    Asked { method: Method::GET, path, body: None, headers: Vec::new() }
}

fn post(path: &str, body: Value) -> Asked<'_> {
    Asked { method: Method::POST, path, body: Some(body), headers: Vec::new() }
}

impl<'a> Asked<'a> {
    fn with(mut self, name: &'a str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    async fn of(self, console: &Console) -> Result<reqwest::Response> {
        let mut request = console.http.request(self.method, format!("{}{}", console.url, self.path));
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        if let Some(body) = self.body {
            request = request.json(&body);
        }
        Ok(request.send().await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_does_what_it_may_and_nothing_more() -> Result<()> {
    let stage = Stage::new(1).await?;
    let (mut entries, mut tokens) = (Vec::new(), Vec::new());
    for role in ["view", "operate", "admin"] {
        let (token, entry) = token(&stage, &format!("{role}er"), role).await?;
        entries.push(entry);
        tokens.push(format!("Bearer {token}"));
    }
    let path = stage.file("tokens.toml", &entries.concat())?;
    let console = stage.console(&["--tokens-file", &path.display().to_string()]).await?;
    let command = |verb: &str| json!({"group": stage.group, "verb": verb, "topic": stage.topic, "partition": 0, "offset": 0, "reason": "x", "confirm": "0@0"});
    let redrive =
        |max: u64| json!({"topic": "t-g-dlq", "fingerprint": "f", "redrive_max": max, "reason": "x", "confirm": "f"});
    let edit = || json!({"topic": "t-g-dlq", "partition": 0, "offset": 0, "edit": {"key": "none"}, "reason": "x", "confirm": "0@0"});
    // What a role may do goes on to be looked at: 404, there is no such group; 409, there is no such topic.
    for (asked, expected) in [
        (&(|| get("/v1/overview")) as &dyn Fn() -> Asked<'static>, [401, 200, 200, 200]),
        (&|| get("/events"), [401, 200, 200, 200]),
        (&|| post("/v1/commands", command("skip")), [401, 403, 404, 404]),
        (&|| post("/v1/commands", command("ignore")), [401, 403, 403, 404]),
        (&|| post("/v1/redrives", redrive(3)), [401, 403, 409, 409]),
        (&|| post("/v1/redrives", redrive(4)), [401, 403, 403, 409]),
        (&|| post("/v1/redrives", edit()), [401, 403, 403, 409]),
        (&|| post("/v1/redrives/x/stop", json!({})), [401, 403, 404, 404]),
        (&|| post("/v1/redrives/x/continue", json!({})), [401, 403, 404, 404]),
    ] {
        let path = asked().path;
        for (token, expected) in [None].into_iter().chain(tokens.iter().map(Some)).zip(expected) {
            let request = match token {
                Some(token) => asked().with("authorization", token),
                // As the page's script would, without a session.
                None => asked().with("x-console", "1"),
            };
            let status = request.of(&console).await?.status();
            ensure!(status == expected, "{path} by {token:?}: {status}, not {expected}");
        }
    }
    ensure!(get("/v1/overview").with("authorization", "Bearer wrong").of(&console).await?.status() == 401);
    let mut looks_on = get("/events").with("authorization", &tokens[1]).of(&console).await?;
    looks_on.chunk().await?.context("the page")?;
    let page = get("/").of(&console).await?;
    ensure!(page.status() == 401 && page.text().await?.contains("sign-in"));
    sessions(&console, &tokens[1]).await?;

    // Who is taken out of the file is out, also where they look on; the others stay.
    std::fs::write(&path, &entries[0])?;
    timeout(DEADLINE, async {
        while looks_on.chunk().await?.is_some() {}
        anyhow::Ok(())
    })
    .await??;
    for (token, expected) in tokens.iter().zip([200, 401, 401]) {
        ensure!(get("/v1/overview").with("authorization", token).of(&console).await?.status() == expected);
    }
    Ok(())
}

/// Signing in, what a foreign page can do with it, signing out.
async fn sessions(console: &Console, bearer: &str) -> Result<()> {
    let token = json!({"token": bearer.trim_start_matches("Bearer ")});
    ensure!(post("/v1/session", token.clone()).of(console).await?.status() == 403, "a form of a foreign page");
    let wrong = post("/v1/session", json!({"token": "wrong"})).with("x-console", "1").of(console).await?;
    ensure!(wrong.status() == 401 && wrong.headers().get(header::SET_COOKIE).is_none());
    let begun = post("/v1/session", token).with("x-console", "1").of(console).await?;
    let cookie = begun.headers()[header::SET_COOKIE].to_str()?.to_owned();
    ensure!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().context("a cookie")?;
    let page = get("/").with("cookie", cookie).of(console).await?;
    for (name, part) in [
        ("content-security-policy", "default-src 'none'"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
    ] {
        ensure!(
            page.headers().get(name).is_some_and(|value| value.to_str().is_ok_and(|text| text.contains(part))),
            "{name}"
        );
    }
    ensure!(page.text().await?.contains("data-role=\"operate\""));
    let stop = || post("/v1/redrives/x/stop", json!({})).with("cookie", cookie);
    for (asked, expected) in [
        (stop(), 403),
        (stop().with("x-console", "1").with("origin", "http://evil.example"), 403),
        (stop().with("x-console", "1").with("sec-fetch-site", "cross-site"), 403),
        (stop().with("x-console", "1").with("origin", &console.url), 404),
    ] {
        ensure!(asked.of(console).await?.status() == expected);
    }
    let end = Asked { method: Method::DELETE, path: "/v1/session", body: None, headers: Vec::new() };
    ensure!(end.with("cookie", cookie).with("x-console", "1").of(console).await?.status() == StatusCode::NO_CONTENT);
    ensure!(get("/v1/overview").with("cookie", cookie).of(console).await?.status() == 401, "the session has ended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_only_names_of_this_machine_are_answered() -> Result<()> {
    let stage = Stage::new(1).await?;
    let console = stage.console(&[]).await?;
    ensure!(get("/v1/overview").of(&console).await?.status() == 200);
    let rebound = get("/v1/overview").with("host", "evil.example").of(&console).await?;
    ensure!(rebound.status() == 403, "a foreign name that resolves to this machine");
    let unmarked = post("/v1/redrives", json!({})).of(&console).await?;
    ensure!(unmarked.status() == 403, "a form of a foreign page");
    let (_, code) = stage.verb(&["serve", "--listen", "0.0.0.0:0"]).await?;
    ensure!(code == 2, "everybody may reach that address");
    Ok(())
}
