//! `GET /v1/openapi.json`: the description of this API, for everybody.

use std::sync::OnceLock;

use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;

/// The description as it is checked in.
const TEXT: &str = include_str!("../../openapi.yaml");

/// The description.
pub(super) fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| serde_yaml_ng::from_str(TEXT).expect("a test reads it"))
}

/// `GET /v1/openapi.json`.
pub(super) async fn show() -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, document().to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use axum::Router;
    use axum::body::Body;
    use axum::http::{Method, Request, StatusCode};
    use hookline_model::resource::{Resource, parse_documents};
    use serde_json::Map;
    use tower::ServiceExt as _;

    use super::*;
    use crate::api::routes;
    use crate::http::Pages;
    use crate::metrics::Metrics;
    use crate::tasks::Tasks;

    const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

    /// The methods of each path that the document describes; what is done to a resource (`{name}:activate`) is a POST to it.
    fn described() -> BTreeMap<String, BTreeSet<String>> {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let paths = document()["paths"].as_object().expect("paths");
        for (path, operations) in paths {
            let path = match path.rsplit_once("}:") {
                Some((resource, _)) => format!("{resource}}}"),
                None => path.clone(),
            };
            let methods = operations.as_object().expect("operations").keys();
            found.entry(path).or_default().extend(methods.cloned());
        }
        found
    }

    fn pages() -> Arc<Pages> {
        let metrics = Arc::new(Metrics::new(&crate::clock::SystemClock).expect("valid"));
        let tasks = Tasks::new(metrics.panics());
        Pages::new(metrics, tasks.board())
    }

    #[tokio::test]
    async fn every_route_is_described_and_what_is_described_is_routed() {
        let described = described();
        let routed: BTreeSet<_> = routes()
            .iter()
            .map(|(path, _)| (*path).to_owned())
            .collect();
        assert_eq!(routed, described.keys().cloned().collect());
        for (path, route) in routes() {
            let router: Router = Router::new().route(path, route).with_state(pages());
            let filled = path.replace(['{', '}'], "");
            for method in METHODS {
                let method_name = Method::from_bytes(method.to_uppercase().as_bytes());
                let request = Request::builder()
                    .method(method_name.expect("a method"))
                    .uri(&filled)
                    .body(Body::empty())
                    .expect("a request");
                let answer = router.clone().oneshot(request).await.expect("answers");
                let routed = answer.status() != StatusCode::METHOD_NOT_ALLOWED;
                assert_eq!(routed, described[path].contains(method), "{method} {path}");
            }
        }
    }

    fn members(schema: &str) -> BTreeSet<String> {
        let properties = &document()["components"]["schemas"][schema]["properties"];
        properties
            .as_object()
            .map(Map::keys)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    #[test]
    fn resources_have_the_members_that_are_described() {
        let text = "
kind: Project
id: shop
---
kind: EventType
project: shop
name: a.b
---
kind: Connector
project: shop
name: basic
type: basic
username: a
---
kind: Connector
project: shop
name: header
type: api-key
header: x-key
---
kind: Connector
project: shop
name: query
type: api-key
query: key
---
kind: Webhook
project: shop
name: crm
url: https://crm.example.com/
events: ['*']
";
        for resource in parse_documents(text).expect("valid") {
            let (schemas, document) = match &resource {
                Resource::Project(spec) => (["Project", "ProjectNew"], spec.to_document()),
                Resource::EventType(spec) => (["EventType", "EventTypePut"], spec.to_document()),
                Resource::Connector(spec) => (["Connector", "ConnectorPut"], spec.to_document()),
                Resource::Webhook(spec) => (["Webhook", "WebhookPut"], spec.settings.to_document()),
            };
            let shown: BTreeSet<_> = document
                .as_object()
                .expect("an object")
                .keys()
                .cloned()
                .collect();
            for schema in schemas {
                let undescribed: Vec<_> = shown.difference(&members(schema)).cloned().collect();
                assert!(undescribed.is_empty(), "{schema}: {undescribed:?}");
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, whole: &Value) {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').expect("inside the document");
                assert!(whole.pointer(pointer).is_some(), "{reference}");
            }
            match value {
                Value::Object(map) => map.values().for_each(|v| walk(v, whole)),
                Value::Array(list) => list.iter().for_each(|v| walk(v, whole)),
                _ => {}
            }
        }
        walk(document(), document());
    }
}
