//! Our mark in a domain's metadata: whose it is, and what the list says of it.
//!
//! ```xml
//! <metadata>
//!   <runner:instance xmlns:runner="urn:single-use-runner:instance:1" owner="OWNER">{…}</runner:instance>
//! </metadata>
//! ```
//!
//! The text is the mark as JSON, the same as in the directory of an instance.

use machine_disks::Mark;
use runner_core::{Error, OwnerId, Result};

use crate::xml::{Tree, element};

/// The namespace of our metadata. Another form of the mark would get another number.
pub(crate) const NAMESPACE: &str = "urn:single-use-runner:instance:1";
const PREFIX: &str = "runner";

/// The mark of a domain of `owner`; none for a domain without our mark, with another owner's, or with the mark
/// of another name, as a clone has it.
///
/// A mark of `owner` that cannot be read is an error: an instance must not drop out of a list because someone
/// edited its metadata, as it would then be taken for gone, and its record for a leftover. The list fails until
/// someone mends the domain or undefines it, and the error names it.
///
/// # Errors
/// `Invalid` for a document or a mark that cannot be read. It names the domain.
pub(crate) fn mark(domain_xml: &str, owner: &OwnerId) -> Result<Option<Mark>> {
    // Others' documents need not be such as we read.
    if !domain_xml.contains(NAMESPACE) {
        return Ok(None);
    }
    let tree = Tree::parse("the document of a domain", domain_xml)?;
    let root = tree.root();
    let Some(node) = tree.find_in_namespace(root, NAMESPACE) else {
        return Ok(None);
    };
    if tree.attribute(node, "owner").is_some_and(|other| other != owner.as_str()) {
        return Ok(None);
    }
    let name = tree.child(root, "name").map(|name| tree.text(name)).unwrap_or_default();
    let invalid = |reason: String| {
        let way_out = "mend it with `virsh edit`, or remove the domain with `virsh undefine`";
        Error::invalid(format!("our mark in domain {name:?}"), format!("{reason}; {way_out}"))
    };
    let mark: Mark = serde_json::from_str(&tree.text(node))
        .map_err(|error| invalid(format!("it cannot be read: {error}")))?;
    if mark.owner != *owner {
        return Err(invalid(format!("it names two owners, {owner} and {}", mark.owner)));
    }
    // Someone cloned a domain of ours, mark and all. The copy is theirs. (The element alone, without its
    // domain, has no name to compare with.)
    Ok(Some(mark).filter(|mark| name.is_empty() || mark.name.as_str() == name))
}

/// Puts `mark` into the document, in the place of one that is there.
pub(super) fn set(tree: &mut Tree, mark: &Mark) -> Result<()> {
    let metadata = tree.ensure(tree.root(), "metadata")?;
    while let Some(old) = tree.find_in_namespace(metadata, NAMESPACE) {
        tree.remove(old);
    }
    let text = serde_json::to_string(mark)
        .map_err(|error| Error::backend("libvirt", format!("mark {}", mark.name), error))?;
    let instance = element("instance").attribute("owner", &mark.owner).text(text);
    tree.append_in_namespace(metadata, (PREFIX, NAMESPACE), instance)?;
    Ok(())
}
