//! A bill of materials in CycloneDX 1.5 JSON: what a binary is made of, for scanners and for people who have to know.

use serde_json::{Value, json};

use super::{Arch, deps::Crate};

/// The document for the binary `file` with this SHA-256 (hexadecimal). Equal input gives equal bytes: it bears neither a
/// time nor a random serial number, which the standard leaves optional.
pub(super) fn cyclonedx(arch: Arch, file: &str, sha256: &str, version: &str, crates: &[Crate]) -> Value {
    let root = format!("berrylb@{version}?arch={}", arch.name());
    let components: Vec<Value> = crates.iter().map(component).collect();
    let mut dependencies: Vec<Value> = crates
        .iter()
        .map(|one| {
            let needs: Vec<String> = one.needs.iter().map(|(name, version)| purl(name, version)).collect();
            json!({"ref": purl(&one.name, &one.version), "dependsOn": needs})
        })
        .collect();
    let own = crates.iter().filter(|one| !one.foreign && one.linked).map(|one| purl(&one.name, &one.version));
    dependencies.insert(0, json!({"ref": root, "dependsOn": own.collect::<Vec<_>>()}));
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application", "bom-ref": root, "name": "berrylb", "version": version,
                "description": format!("{file}: static binary for linux/{}", arch.name()),
                "hashes": [{"alg": "SHA-256", "content": sha256}],
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
        },
        "components": components,
        "dependencies": dependencies,
    })
}

fn component(one: &Crate) -> Value {
    let purl_text = purl(&one.name, &one.version);
    let mut component = json!({
        "type": "library", "bom-ref": purl_text, "name": one.name, "version": one.version, "purl": purl_text,
        // "excluded": needed to build it, and not in it.
        "scope": if one.linked { "required" } else { "excluded" },
    });
    if let Some(expression) = &one.licence {
        component["licenses"] = json!([{"expression": expression.replace('/', " OR ")}]);
    }
    if let Some(checksum) = &one.checksum {
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    component
}

fn purl(name: &str, version: &str) -> String {
    // A version's "+build" is the one character of it that a package URL escapes.
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::deps;

    #[test]
    fn every_reference_is_a_component_and_the_same_input_gives_the_same_bytes() {
        let crates = deps::crates(Arch::Arm64).expect("metadata");
        let document = cyclonedx(Arch::Arm64, "berrylb-linux-arm64", "00", "1.2.3", &crates);
        let again = cyclonedx(Arch::Arm64, "berrylb-linux-arm64", "00", "1.2.3", &crates);
        assert_eq!(document.to_string(), again.to_string());

        let refs: Vec<&str> = document["components"].as_array().expect("components").iter().map(reference).collect();
        let mut unique = refs.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), refs.len(), "no reference stands for two components");
        for dependency in document["dependencies"].as_array().expect("dependencies") {
            for needed in dependency["dependsOn"].as_array().expect("list") {
                assert!(refs.contains(&needed.as_str().expect("text")), "{needed} is no component");
            }
        }
    }

    fn reference(component: &Value) -> &str {
        component["bom-ref"].as_str().expect("text")
    }
}
