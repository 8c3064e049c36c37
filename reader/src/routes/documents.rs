//! The API's description, and a page to read and try it. Everything is in the binary: nothing is loaded from elsewhere.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;

use crate::answer::Answer;
use crate::error::Error;
use crate::openapi::DOCUMENT;
use crate::request::Call;

/// Paths are relative, so that the page works behind a prefix too.
const PAGE: &str = r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Siteview reader</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="docs/favicon-32x32.png">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "openapi.json", dom_id: "#page", deepLinking: true, displayRequestDuration: true})</script>
</body>
</html>
"##;

/// `GET /openapi.json`.
#[utoipa::path(
    get, path = "/openapi.json", tag = "documents", operation_id = "get_openapi",
    summary = "This document",
    responses((status = 200, description = "OpenAPI 3.1.", body = serde_json::Value, content_type = "application/json"))
)]
pub(crate) fn openapi() -> Answer {
    Answer::page(DOCUMENT.clone(), HeaderValue::from_static("application/json"))
}

/// `GET /docs`.
#[utoipa::path(
    get, path = "/docs", tag = "documents", operation_id = "get_docs",
    summary = "A page to read and try the API",
    responses((status = 200, description = "Swagger UI.", body = String, content_type = "text/html"))
)]
pub(crate) fn docs() -> Answer {
    Answer::page(PAGE, HeaderValue::from_static("text/html; charset=utf-8"))
}

/// `GET /docs/{file}`: what the page consists of.
#[utoipa::path(
    get, path = "/docs/{file}", tag = "documents", operation_id = "get_docs_file",
    summary = "A part of that page",
    params(("file" = String, Path, example = "swagger-ui.css")),
    responses((
        status = 200, description = "A script, a style, a picture, a page.",
        content((String = "text/javascript"), (String = "text/css"), (String = "image/png"), (String = "text/html"))
    ))
)]
pub(crate) fn docs_file(call: &Call<'_>) -> Result<Answer, Error> {
    let config = Arc::new(utoipa_swagger_ui::Config::from("/openapi.json"));
    // The only error is that of the initializer, which the page does not use.
    let found = utoipa_swagger_ui::serve(call.variables[0], config).ok().flatten();
    let file = found.filter(|_| !call.variables[0].is_empty()).ok_or(Error::RouteNotFound)?;
    let content_type = HeaderValue::from_str(&file.content_type).map_err(|_| Error::RouteNotFound)?;
    let bytes = match file.bytes {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    Ok(Answer::page(bytes, content_type))
}
