//! A project has the event types of its preset, and what people make of them stays.

use serde_json::Value;

use hookline_tests::program::{Engine, Site, hookline};

both_engines!(a_preset_is_loaded_and_what_people_change_stays,);

async fn get(site: &Site, name: &[&str]) -> Value {
    let mut arguments = vec!["get", "event-types"];
    arguments.extend(name);
    arguments.extend(["--project", "shop", "--output", "json"]);
    serde_json::from_str(&site.succeed(&arguments, "").await).expect("JSON")
}

async fn a_preset_is_loaded_and_what_people_change_stays(engine: Engine) {
    let site = Site::new(engine).await;
    let project = "kind: Project\nid: shop\npreset: wooxy\n---\n";
    let printed = site.apply(project).await;
    assert!(
        printed.contains("created project shop version 1, 43 event types of its preset"),
        "{printed}"
    );
    let all = get(&site, &[]).await;
    assert_eq!(all.as_array().map(Vec::len), Some(43), "{all}");
    let bounced = get(&site, &["email.bounced"]).await;
    assert_eq!(
        bounced["schema"]["properties"]["bounce"]["properties"]["code"]["type"],
        "string"
    );
    assert_eq!(bounced["example"]["bounce"]["code"], "550 5.1.1");
    assert_eq!(
        (&bounced["category"], &bounced["version"]),
        (&"Email".into(), &1.into())
    );

    // The same file brings a project's preset and what is to differ from it.
    let own = "
kind: EventType
project: shop
name: email.bounced
preset: wooxy
title: It came back
---
kind: EventType
project: shop
name: order.paid
category: Order
schema: {required: [total], properties: {total: {type: number}}}
example: {total: 12.5}
---
";
    site.apply(&format!("{own}{project}")).await;
    let printed = site.apply(project).await;
    assert!(
        printed.contains("unchanged project shop version 1\n"),
        "{printed}"
    );
    let bounced = get(&site, &["email.bounced"]).await;
    assert_eq!(
        (&bounced["title"], &bounced["category"]),
        (&"It came back".into(), &"Email".into())
    );
    let paid = get(&site, &["order.paid"]).await;
    assert_eq!(paid["example"]["total"], 12.5);

    // What is shown can be applied again, and changes nothing.
    let mut document = paid.clone();
    document
        .as_object_mut()
        .expect("an object")
        .remove("version");
    let printed = site.apply(&document.to_string()).await;
    assert!(
        printed.starts_with("unchanged event type shop/order.paid version 1"),
        "{printed}"
    );

    let wrong = "
kind: EventType
project: shop
name: order.lost
schema: {properties: {total: {type: nummer}}}
---
kind: EventType
project: shop
name: order.found
schema: {required: [total]}
example: {}
---
kind: EventType
project: shop
name: order.fine
";
    let output = site.run(&["apply", "-f", "-"], wrong).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    for want in [
        "shop/order.lost: schema.properties.total.type: ",
        "shop/order.found: example.total: is required",
    ] {
        assert!(errors.contains(want), "{want} in {errors}");
    }
    let all = get(&site, &[]).await;
    assert_eq!(
        all.as_array().map(Vec::len),
        Some(44),
        "nothing of it was applied: {all}"
    );
}

/// Runs the program without any configuration.
async fn bare(arguments: &[&str]) -> (Option<i32>, String, String) {
    let nowhere = tempfile::tempdir().unwrap();
    let output = hookline()
        .args(arguments)
        .current_dir(nowhere.path())
        .output()
        .await
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test]
async fn presets_can_be_read_and_copied_without_a_configuration() {
    let (code, list, _) = bare(&["preset", "list"]).await;
    assert_eq!(code, Some(0));
    for line in [
        "standard ",
        "vidcorp ",
        "sms-gateway ",
        "esputnik ",
        "wooxy ",
        "vidizmo ",
    ] {
        assert!(
            list.lines().any(|l| l.starts_with(line)),
            "{line} in {list}"
        );
    }
    let (_, list, _) = bare(&["preset", "list", "--output", "json"]).await;
    let list: Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!(
        (&list[4]["name"], &list[4]["event_types"]),
        (&"wooxy".into(), &43.into())
    );

    let (code, file, _) = bare(&["preset", "show", "esputnik"]).await;
    assert_eq!(code, Some(0));
    let file: Value = serde_yaml_ng::from_str(&file).expect("YAML");
    let (_, shown, _) = bare(&["preset", "show", "esputnik", "--output", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&shown).expect("JSON"), file);
    assert_eq!(file["webhook"]["ordered"], "webhook");
    assert_eq!(file["event_types"][0]["name"], "activity.delivered");

    let (_, page, _) = bare(&["preset", "show", "wooxy", "--reference"]).await;
    assert!(
        page.starts_with("# Wooxy: data of events\n")
            && page.contains("| `bounce.code` | string |")
    );
    let (_, resources, _) = bare(&["preset", "show", "vidcorp", "--event-types", "shop"]).await;
    assert_eq!(
        resources
            .matches("\nkind: EventType\nproject: shop\n")
            .count(),
        16
    );

    let (code, out, errors) = bare(&["preset", "show", "vidcop"]).await;
    assert_eq!((code, &*out), (Some(2), ""));
    let known = "standard, vidcorp, sms-gateway, esputnik, wooxy, vidizmo";
    assert!(
        errors.contains("NAME") && errors.contains(known),
        "{errors}"
    );
}
