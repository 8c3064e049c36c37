//! Chromium, driven by its driver over the WebDriver protocol (W3C), which is plain HTTP and JSON.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use devstack::eventually;
use reqwest::Client;
use serde_json::{Value, json};

use crate::stage::DEADLINE;

pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";
const CONTROL: &str = "\u{e009}";

/// A browser may take so long to end.
const END_MAX: Duration = Duration::from_secs(10);

/// A browser with one page; ended when it is dropped.
pub struct Browser {
    driver: Child,
    http: Client,
    session: String,
}

impl Browser {
    pub async fn start() -> Result<Self> {
        let port = devstack::free_port()?;
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let driver = command.spawn().context("chromedriver; `make install` installs it")?;
        let mut browser = Self { driver, http: Client::new(), session: format!("http://127.0.0.1:{port}") };
        let status = format!("{}/status", browser.session);
        let is_up = async || browser.http.get(&status).send().await.is_ok().then_some(());
        eventually("the driver answers", DEADLINE, is_up).await?;
        let options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-sync",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-dev-shm-usage",
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": options}}}});
        let begun = browser.post("/session", &wanted).await?;
        let id = begun["sessionId"].as_str().context("a session")?;
        browser.session = format!("{}/session/{id}", browser.session);
        Ok(browser)
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let answer = self.http.post(format!("{}{path}", self.session)).json(body).send().await?;
        let status = answer.status();
        let told: Value = answer.json().await?;
        ensure!(status == 200, "{path}: {told}");
        Ok(told["value"].clone())
    }

    pub async fn open(&self, url: &str) -> Result<()> {
        self.post("/url", &json!({"url": url})).await.map(drop)
    }

    /// Runs a script that returns something.
    pub async fn run(&self, script: &str) -> Result<Value> {
        self.post("/execute/sync", &json!({"script": script, "args": []})).await
    }

    pub async fn until(&self, what: &str, script: &str) -> Result<()> {
        let holds = async || self.run(script).await.ok().filter(|told| *told == true).map(drop);
        let found = eventually(what, DEADLINE, holds).await;
        if found.is_err() {
            let page = self.run("return document.body.innerText").await?;
            return found.with_context(|| page.to_string());
        }
        found
    }

    /// Presses keys one after another, wherever the focus is.
    pub async fn keys(&self, keys: &str) -> Result<()> {
        let press = |key: char| [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})];
        let all: Vec<Value> = keys.chars().flat_map(press).collect();
        self.post("/actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": all}]})).await.map(drop)
    }

    /// Puts a text in the place of what the focused field holds, by the keyboard.
    pub async fn replace_by(&self, text: &str) -> Result<()> {
        let key = |kind: &str, value: &str| json!({"type": kind, "value": value});
        let select = [key("keyDown", CONTROL), key("keyDown", "a"), key("keyUp", "a"), key("keyUp", CONTROL)];
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": select}]});
        self.post("/actions", &actions).await?;
        self.keys(text).await
    }

    /// Moves the focus by the tab key until it is on the element of this id.
    pub async fn tab_to(&self, id: &str) -> Result<()> {
        for _ in 0..300 {
            if self.run("return document.activeElement?.id ?? ''").await? == id {
                return Ok(());
            }
            self.keys(TAB).await?;
        }
        anyhow::bail!("the tab key does not lead to {id}")
    }

    /// The page as it looks: in a scheme (`light`, `dark`) and a width; the picture lies below `target/`.
    pub async fn picture(&self, name: &str, scheme: &str, width: u32) -> Result<PathBuf> {
        let media = json!({"cmd": "Emulation.setEmulatedMedia",
            "params": {"features": [{"name": "prefers-color-scheme", "value": scheme}]}});
        self.post("/goog/cdp/execute", &media).await?;
        let size = json!({"cmd": "Emulation.setDeviceMetricsOverride",
            "params": {"width": width, "height": 1400, "deviceScaleFactor": 1, "mobile": width < 600}});
        self.post("/goog/cdp/execute", &size).await?;
        let answer = self.http.get(format!("{}/screenshot", self.session)).send().await?.json::<Value>().await?;
        let bytes = BASE64_STANDARD.decode(answer["value"].as_str().context("a picture")?)?;
        let folder = devstack::target_dir()?.join("console-pictures");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{name}-{scheme}-{width}.png"));
        std::fs::write(&path, bytes)?;
        Ok(path)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with its session, and not with its driver.
        let _ = self.end_session();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

impl Browser {
    fn end_session(&self) -> Result<()> {
        let url: reqwest::Url = self.session.parse()?;
        let address = (url.host_str().context("a host")?, url.port().context("a port")?);
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "DELETE {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", url.path())?;
        // It answers when the browser has gone, and leaves the connection open.
        stream.set_read_timeout(Some(END_MAX))?;
        Ok(stream.read(&mut [0; 512]).map(drop)?)
    }
}
