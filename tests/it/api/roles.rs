//! Keys and roles: what each may, what a bound key sees, how keys end.

use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::program::{Engine, Site};
use hookline_tests::wait::eventually;
use serde_json::json;

use super::{shop, webhook};

both_engines!(
    each_role_may_what_it_is_for,
    keys_are_made_rotated_and_revoked,
);

async fn each_role_may_what_it_is_for(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    assert_eq!(
        admin
            .send("POST", "/v1/projects", &json!({"id": "other"}))
            .await
            .status,
        201
    );
    let hooks = "/v1/projects/shop/webhooks";
    let document = webhook("crm", "https://crm.example.com/");
    let event = json!({"type": "a.b", "data": {}});
    // role: read, publish, manage, administer
    let expected = [
        ("viewer", [200, 403, 403, 403]),
        ("publisher", [403, 202, 403, 403]),
        ("manager", [200, 202, 200, 403]),
        ("admin", [200, 202, 200, 200]),
    ];
    assert_eq!(admin.send("POST", hooks, &document).await.status, 201);
    for (role, statuses) in expected {
        for project in [None, Some("shop")] {
            let caller = Api::with_role(&site, &program, role, project).await;
            let seen = [
                caller.ask("GET", hooks).await.status,
                caller
                    .send("POST", "/v1/projects/shop/events", &event)
                    .await
                    .status,
                caller
                    .send("PUT", &format!("{hooks}/crm"), &document)
                    .await
                    .status,
                caller.ask("GET", "/v1/projects/shop/keys").await.status,
            ];
            assert_eq!(seen, statuses, "{role} of {project:?}");
            // Another project's things are not there for a bound key, whatever its role.
            let foreign = caller
                .ask("GET", "/v1/projects/other/webhooks")
                .await
                .status;
            let expected = if project.is_some() { 404 } else { statuses[0] };
            assert_eq!(foreign, expected, "{role} of {project:?}");
        }
    }
    let bound = Api::with_role(&site, &program, "admin", Some("shop")).await;
    let listed = bound.get("/v1/projects").await;
    assert_eq!(
        listed["items"].as_array().map(Vec::len),
        Some(1),
        "{listed}"
    );
    let outside = bound
        .send("POST", "/v1/projects", &json!({"id": "third"}))
        .await;
    assert_eq!(outside.status, 403, "{}", outside.body);

    let nobody = Api::new(&program, None).ask("GET", hooks).await;
    assert_eq!(nobody.status, 401, "{}", nobody.body);
    assert!(nobody.header("www-authenticate").starts_with("Bearer"));
    for key in ["x", "hk_0123456789abcdef_00"] {
        assert_eq!(
            Api::new(&program, Some(key)).ask("GET", hooks).await.status,
            401,
            "{key}"
        );
    }
    for open in ["/healthz", "/readyz", "/metrics", "/v1/openapi.json"] {
        let (status, _) = program.get(open).await.unwrap();
        assert_eq!(status, 200, "{open} needs no key");
    }
}

async fn keys_are_made_rotated_and_revoked(engine: Engine) {
    let site = Site::new(engine).await;
    let program = site.start().await;
    let admin = shop(&site, &program).await;
    let keys = "/v1/projects/shop/keys";
    let made = admin
        .send("POST", keys, &json!({"role": "viewer", "title": "board"}))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    let text = made.body["key"].as_str().unwrap();
    let one = format!("{keys}/{}", made.body["id"].as_str().unwrap());
    let viewer = Api::new(&program, Some(text));
    assert_eq!(viewer.ask("GET", "/v1/projects/shop").await.status, 200);
    let shown = admin.get(&one).await;
    assert!(
        shown.get("key").is_none() && shown.get("hash").is_none(),
        "{shown}"
    );
    assert!(text.ends_with(shown["hint"].as_str().unwrap()));

    // Nothing that is stored or printed holds the text.
    let listed = site
        .succeed(&["keys", "list", "--output", "json"], "")
        .await;
    assert!(
        !listed.contains(text) && listed.contains("board"),
        "{listed}"
    );

    let rotated = admin
        .send("POST", &format!("{one}:rotate"), &json!({"overlap": "1h"}))
        .await
        .expect(201);
    let successor = Api::new(&program, rotated["key"].as_str());
    assert_eq!(successor.ask("GET", "/v1/projects/shop").await.status, 200);
    assert_eq!(
        viewer.ask("GET", "/v1/projects/shop").await.status,
        200,
        "for an hour"
    );
    assert_eq!(admin.ask("DELETE", &one).await.status, 204);
    let within = Duration::from_secs(5);
    eventually("a revoked key is refused", within, || async {
        match viewer.ask("GET", "/v1/projects/shop").await.status {
            401 => Ok(()),
            other => Err(other),
        }
    })
    .await;

    let past = admin
        .send(
            "POST",
            keys,
            &json!({"role": "viewer", "expires_at": "2001-01-01T00:00:00Z"}),
        )
        .await;
    assert_eq!((past.status, past.fields()), (422, vec!["expires_at"]));
    let wrong = admin
        .send("POST", keys, &json!({"role": "king", "colour": 1}))
        .await;
    assert_eq!(wrong.status, 422, "{}", wrong.body);
    // A key that ends soon is refused from then on.
    let short = site
        .succeed(
            &["keys", "create", "--role", "viewer", "--expires-in", "2s"],
            "",
        )
        .await;
    let short = Api::new(&program, Some(short.trim()));
    eventually(
        "an expired key is refused",
        Duration::from_secs(10),
        || async {
            match short.ask("GET", "/v1/projects/shop").await.status {
                401 => Ok(()),
                other => Err(other),
            }
        },
    )
    .await;
    // With its project, a key ends.
    assert_eq!(admin.ask("DELETE", "/v1/projects/shop").await.status, 204);
    assert_eq!(successor.ask("GET", "/v1/projects").await.status, 401);
}
