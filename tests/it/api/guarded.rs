//! Without the operator's permission no URL leads to where none may, wherever one is given: each known case at registration, at an update, for
//! a test, for tokens, and in a file that is applied.

use hookline_tests::program::{Engine, Site};
use serde_json::json;

use super::{shop, webhook};

both_engines!(what_may_not_be_reached_is_refused_wherever_a_url_is_given);

const CASES: &str = include_str!("../../../crates/dispatch/src/guard/cases.tsv");
const ALL: &str = "/v1/projects/shop/webhooks";

/// Takes the permissions of other tests out of the configuration.
fn withdraw_permissions(site: &Site) {
    let text = std::fs::read_to_string(site.config()).expect("a configuration");
    let strict = text
        .lines()
        .filter(|line| !line.starts_with("allow_"))
        .collect::<Vec<_>>()
        .join("\n");
    assert_ne!(text.lines().count(), strict.lines().count());
    std::fs::write(site.config(), strict).expect("written");
}

fn cases() -> impl Iterator<Item = (&'static str, String, bool)> {
    let lines = CASES.lines().skip(1);
    lines.filter_map(|line| {
        let columns: Vec<_> = line.split('\t').collect();
        let [id, url, verdict, _] = columns[..] else {
            panic!("four columns: {line}");
        };
        let url = url
            .replace("\\t", "\t")
            .replace("\\r", "\r")
            .replace("\\n", "\n")
            .replace("\\\\", "\\");
        match verdict {
            "DENY" => Some((id, url, false)),
            "ALLOW" | "DENY@resolve" => Some((id, url, true)),
            _ => None,
        }
    })
}

async fn what_may_not_be_reached_is_refused_wherever_a_url_is_given(engine: Engine) {
    let site = Site::new(engine).await;
    withdraw_permissions(&site);
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    let good = webhook("crm", "https://crm.example.com/");
    drop(admin.send("POST", ALL, &good).await.expect(201));
    let login = json!({
        "name": "login", "type": "oauth2", "token_url": "https://login.example.com/",
        "client_id": "hookline", "client_secret": "hush",
    });
    let connectors = "/v1/projects/shop/connectors";
    drop(admin.send("POST", connectors, &login).await.expect(201));
    let (mut refused, mut allowed) = (0, 0);
    let mut file = Vec::new();
    for (id, url, may) in cases() {
        if may {
            allowed += 1;
            let path = format!("{ALL}/crm");
            let saved = admin.send("PUT", &path, &webhook("crm", &url)).await;
            assert_eq!(saved.status, 200, "{id} {url:?}: {}", saved.body);
            continue;
        }
        refused += 1;
        let document = webhook("new", &url);
        let unsaved = json!({"webhook": document});
        let asks = [
            ("POST", ALL.to_owned(), document.clone(), "url"),
            ("PUT", format!("{ALL}/crm"), webhook("crm", &url), "url"),
            ("PATCH", format!("{ALL}/crm"), json!({"url": url}), "url"),
            ("POST", format!("{ALL}:test"), unsaved, "webhook.url"),
            (
                "PATCH",
                format!("{connectors}/login"),
                json!({"token_url": url}),
                "token_url",
            ),
        ];
        for (method, path, body, field) in asks {
            let answer = admin.send(method, &path, &body).await;
            let got = (answer.status, answer.fields());
            assert_eq!(got, (422, vec![field]), "{id} {method} {path} {url:?}");
        }
        // What is no URL at all is told before anything is judged.
        if url.starts_with("https://") && url.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
            let mut document = webhook(&id.to_lowercase(), &url);
            document["kind"] = "Webhook".into();
            document["project"] = "shop".into();
            file.push(document.to_string());
        }
    }
    assert!(refused > 50 && allowed > 3, "{refused} {allowed}");
    let list = admin.get(ALL).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
    applied(&site, &file).await;
    assert!(program.stop().await.success());
}

/// All of them in one file: each is named, and nothing is written.
async fn applied(site: &Site, documents: &[String]) {
    assert!(documents.len() > 40, "{}", documents.len());
    let output = site
        .run(&["apply", "-f", "-"], &documents.join("\n---\n"))
        .await;
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    let named = said.lines().filter(|line| line.contains(": url: "));
    assert_eq!(named.count(), documents.len(), "{said}");
    assert!(said.contains("nothing was applied"), "{said}");
}
