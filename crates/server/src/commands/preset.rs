//! `hookline preset`: the presets as files that one can read and copy. It needs no configuration.

use hookline_model::catalog::{reference, specs};
use hookline_model::ids::Slug;
use hookline_model::presets::Preset;
use hookline_model::resource::EventTypeSpec;
use serde_json::{Value, json};

use crate::cli::{OutputArgs, PresetAction, PresetShowArgs};
use crate::output::{Exit, say, say_json, say_raw};

/// Lists or shows presets.
///
/// # Errors
/// When there is no such preset.
pub(crate) fn run(action: &PresetAction) -> Result<(), Exit> {
    match action {
        PresetAction::List(output) => list(*output),
        PresetAction::Show(args) => show(args),
    }
}

fn list(output: OutputArgs) -> Result<(), Exit> {
    let summary = |preset: &Preset| {
        let definition = preset.definition();
        json!({
            "name": preset.as_str(),
            "title": definition.title,
            "description": definition.description,
            "event_types": preset.catalog().len(),
        })
    };
    if output.json() {
        return say_json(&Preset::ALL.iter().map(summary).collect());
    }
    for preset in Preset::ALL {
        let definition = preset.definition();
        let types = match preset.catalog().len() {
            0 => "no event types".to_owned(),
            count => format!("{count} event types"),
        };
        say(format_args!(
            "{:<12} {} ({types}). {}",
            preset.as_str(),
            definition.title,
            definition.description
        ))?;
    }
    Ok(())
}

fn show(args: &PresetShowArgs) -> Result<(), Exit> {
    let preset: Preset = args
        .name
        .parse()
        .map_err(|error| Exit::usage(format!("NAME: {error}")))?;
    if args.reference {
        return say_raw(&reference::of_preset(preset));
    }
    if let Some(project) = &args.event_types {
        let project = Slug::new(project.as_str())
            .map_err(|error| Exit::usage(format!("--event-types: {error}")))?;
        return event_types(preset, &project, args.output);
    }
    let text = preset.text();
    if !args.output.json() {
        return say_raw(&text);
    }
    let whole: Value = serde_yaml_ng::from_str(&text)
        .map_err(|error| Exit::failed(format!("preset {preset}: {error}")))?;
    say_json(&whole)
}

/// The catalog as resources: what `hookline apply` takes.
fn event_types(preset: Preset, project: &Slug, output: OutputArgs) -> Result<(), Exit> {
    let documents = documents(preset, project);
    if output.json() {
        return say_json(&Value::from(documents));
    }
    documents.iter().try_for_each(|document| {
        let text =
            yaml(document).map_err(|error| Exit::failed(format!("preset {preset}: {error}")))?;
        say_raw(&text)
    })
}

fn documents(preset: Preset, project: &Slug) -> Vec<Value> {
    let document = |mut spec: EventTypeSpec| {
        // The copy stands for itself. Whoever wants to follow the preset names it and leaves all else out.
        spec.preset = None;
        spec.to_document()
    };
    specs(project, preset).map(document).collect()
}

fn yaml(document: &Value) -> Result<String, serde_yaml_ng::Error> {
    serde_yaml_ng::to_string(document).map(|text| format!("---\n{text}"))
}

#[cfg(test)]
mod tests {
    use hookline_model::resource::{Resource, parse_documents};

    use super::*;

    #[test]
    fn event_types_are_printed_as_what_apply_takes() {
        let shop = Slug::new("shop").expect("slug");
        for preset in Preset::ALL.iter().filter(|p| !p.catalog().is_empty()) {
            let documents = documents(*preset, &shop);
            let text: String = documents.iter().map(|d| yaml(d).expect("YAML")).collect();
            let read = parse_documents(&text).unwrap_or_else(|e| panic!("{preset}: {e:#?}"));
            assert_eq!(read.len(), preset.catalog().len());
            for (resource, spec) in read.iter().zip(specs(&shop, *preset)) {
                let Resource::EventType(read) = resource else {
                    panic!("{resource:?}");
                };
                assert_eq!(
                    read.to_document(),
                    EventTypeSpec {
                        preset: None,
                        ..spec
                    }
                    .to_document()
                );
            }
        }
    }
}
