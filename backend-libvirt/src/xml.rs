//! A document of libvirt's as a tree that can be changed, and the one door through which text gets into it.

use std::path::Path;

use runner_core::{Error, Result};
use xot::{
    Node, NodeEdge, Xot,
    output::{Indentation, xml::Parameters},
};

/// Elements within elements. What libvirt knows has a dozen levels.
const MAX_DEPTH: usize = 64;
/// The longest document, in bytes.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// A document.
pub(crate) struct Tree {
    xot: Xot,
    document: Node,
    root: Node,
}

/// An element to be put into a document: its name, and what it holds.
#[derive(Debug, Default)]
pub(crate) struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    text: Option<String>,
    children: Vec<Element>,
}

/// An element called `name`, which is no outsider's text.
pub(crate) fn element(name: &'static str) -> Element {
    Element { name, ..Element::default() }
}

impl Element {
    pub(crate) fn attribute(mut self, name: &'static str, value: impl ToString) -> Self {
        self.attributes.push((name, value.to_string()));
        self
    }

    pub(crate) fn text(mut self, text: impl ToString) -> Self {
        self.text = Some(text.to_string());
        self
    }

    pub(crate) fn child(mut self, child: Element) -> Self {
        self.children.push(child);
        self
    }
}

impl Tree {
    /// A document of one element.
    ///
    /// # Errors
    /// `Invalid` for text that XML cannot hold.
    pub(crate) fn of(element: Element) -> Result<Self> {
        let mut xot = Xot::new();
        let name = xot.add_name(element.name);
        let root = xot.new_element(name);
        let document = xot.new_document_with_element(root).map_err(broken)?;
        let mut tree = Self { xot, document, root };
        tree.fill(root, element)?;
        Ok(tree)
    }

    /// Reads a document, whose name is `source` in errors.
    ///
    /// # Errors
    /// `Invalid`, with the line, for what is no XML, has a document type (and so entities), or is larger or
    /// deeper than any domain.
    pub(crate) fn parse(source: &str, text: &str) -> Result<Self> {
        let invalid = |reason: String| Error::invalid(source, reason);
        if text.len() > MAX_BYTES {
            return Err(invalid(format!(
                "it has {} bytes, and the most is {MAX_BYTES}",
                text.len()
            )));
        }
        let mut xot = Xot::new();
        let document = xot.parse(text).map_err(|error| {
            let before = text.as_bytes().iter().take(error.span().start);
            let line = 1 + before.filter(|byte| **byte == b'\n').count();
            invalid(match error {
                xot::ParseError::DtdUnsupported(_) => {
                    format!("line {line}: a document type is not allowed; remove the <!DOCTYPE>")
                }
                error => format!("line {line}: {error}"),
            })
        })?;
        let mut depth = 0usize;
        for edge in xot.traverse(document) {
            match edge {
                NodeEdge::Start(_) => depth += 1,
                NodeEdge::End(_) => depth -= 1,
            }
            if depth > MAX_DEPTH {
                return Err(invalid(format!("its elements are more than {MAX_DEPTH} deep")));
            }
        }
        let root = xot.document_element(document).map_err(|error| invalid(error.to_string()))?;
        Ok(Self { xot, document, root })
    }

    pub(crate) fn root(&self) -> Node {
        self.root
    }

    /// The document as text, an element a line.
    pub(crate) fn into_xml(mut self) -> String {
        self.xot.remove_insignificant_whitespace(self.document);
        let parameters =
            Parameters { indentation: Some(Indentation::default()), ..Parameters::default() };
        // It was parsed, and only elements, attributes and checked text were added.
        self.xot.serialize_xml_string(parameters, self.document).unwrap_or_default()
    }

    /// The name of an element, if it has no namespace.
    pub(crate) fn name(&self, node: Node) -> Option<&str> {
        match self.xot.name_ns_str(self.xot.node_name(node)?) {
            (name, "") if self.xot.is_element(node) => Some(name),
            _ => None,
        }
    }

    /// The elements called `name` in `parent`.
    pub(crate) fn children(&self, parent: Node, name: &str) -> Vec<Node> {
        let children = self.xot.children(parent);
        children.filter(|child| self.name(*child) == Some(name)).collect()
    }

    /// The first element called `name` in `parent`.
    pub(crate) fn child(&self, parent: Node, name: &str) -> Option<Node> {
        self.children(parent, name).into_iter().next()
    }

    /// The first element in `parent`, and below it, in the namespace `uri`.
    pub(crate) fn find_in_namespace(&self, parent: Node, uri: &str) -> Option<Node> {
        self.xot.descendants(parent).filter(|node| self.xot.is_element(*node)).find(|node| {
            self.xot.node_name(*node).is_some_and(|name| self.xot.uri_str(name) == uri)
        })
    }

    pub(crate) fn attribute(&self, node: Node, name: &str) -> Option<&str> {
        self.xot.get_attribute(node, self.xot.name(name)?)
    }

    /// All text in an element.
    pub(crate) fn text(&self, node: Node) -> String {
        self.xot.string_value(node)
    }

    pub(crate) fn has_text(&self, node: Node) -> bool {
        !self.text(node).trim().is_empty()
    }

    pub(crate) fn remove(&mut self, node: Node) {
        // It fails for the document itself, which nobody has.
        let _ = self.xot.remove(node);
    }

    /// Removes the elements called `name` in `parent`.
    pub(crate) fn remove_children(&mut self, parent: Node, name: &str) {
        for child in self.children(parent, name) {
            self.remove(child);
        }
    }

    pub(crate) fn remove_attribute(&mut self, node: Node, name: &str) {
        let name = self.xot.add_name(name);
        self.xot.remove_attribute(node, name);
    }

    /// Removes all that an element holds but its attributes.
    pub(crate) fn clear(&mut self, node: Node) {
        let children: Vec<Node> = self.xot.children(node).collect();
        for child in children {
            self.remove(child);
        }
    }

    /// # Errors
    /// `Invalid` for a value that XML cannot hold.
    pub(crate) fn set_attribute(&mut self, node: Node, name: &str, value: &str) -> Result<()> {
        check(name, value)?;
        let name = self.xot.add_name(name);
        self.xot.set_attribute(node, name, value);
        Ok(())
    }

    /// # Errors
    /// `Invalid` for text that XML cannot hold.
    pub(crate) fn set_text(&mut self, node: Node, text: &str) -> Result<()> {
        check("text", text)?;
        self.clear(node);
        self.xot.append_text(node, text).map_err(broken)
    }

    /// The first element called `name` in `parent`, which is made if it is missing.
    pub(crate) fn ensure(&mut self, parent: Node, name: &'static str) -> Result<Node> {
        match self.child(parent, name) {
            Some(child) => Ok(child),
            None => self.append(parent, element(name)),
        }
    }

    /// Puts `element` into `parent` in the place of all that are called like it.
    ///
    /// # Errors
    /// `Invalid` for text that XML cannot hold.
    pub(crate) fn replace(&mut self, parent: Node, element: Element) -> Result<Node> {
        self.remove_children(parent, element.name);
        self.append(parent, element)
    }

    /// Puts `element` into `parent`, behind what is there.
    ///
    /// # Errors
    /// `Invalid` for text that XML cannot hold.
    pub(crate) fn append(&mut self, parent: Node, element: Element) -> Result<Node> {
        let name = self.xot.add_name(element.name);
        let node = self.xot.new_element(name);
        self.fill(node, element)?;
        self.xot.append(parent, node).map_err(broken)?;
        Ok(node)
    }

    fn fill(&mut self, node: Node, element: Element) -> Result<()> {
        for (name, value) in &element.attributes {
            self.set_attribute(node, name, value)?;
        }
        if let Some(text) = &element.text {
            check(element.name, text)?;
            self.xot.append_text(node, text).map_err(broken)?;
        }
        for child in element.children {
            self.append(node, child)?;
        }
        Ok(())
    }

    /// Puts a copy of `original`, which may be of this tree only, into `parent`.
    pub(crate) fn append_copy(&mut self, parent: Node, original: Node) -> Result<()> {
        let copy = self.xot.clone_with_prefixes(original);
        self.xot.append(parent, copy).map_err(broken)
    }

    /// The names of all elements in order, with how deep they are.
    #[cfg(test)]
    pub(crate) fn shape(&self) -> Vec<String> {
        let elements = self.xot.descendants(self.root).filter_map(|node| {
            let (name, uri) = self.xot.name_ns_str(self.xot.node_name(node)?);
            let attributes: Vec<&str> = self
                .xot
                .attributes(node)
                .keys()
                .map(|name| self.xot.local_name_str(name))
                .collect();
            Some(format!("{} {{{uri}}}{name} {attributes:?}", self.xot.ancestors(node).count()))
        });
        elements.collect()
    }

    /// Puts an element in the namespace `uri`, with a prefix and attributes, into `parent`.
    ///
    /// # Errors
    /// `Invalid` for text that XML cannot hold.
    pub(crate) fn append_in_namespace(
        &mut self,
        parent: Node,
        (prefix, uri): (&str, &str),
        element: Element,
    ) -> Result<Node> {
        let (prefix, namespace) = (self.xot.add_prefix(prefix), self.xot.add_namespace(uri));
        let name = self.xot.add_name_ns(element.name, namespace);
        let node = self.append(parent, element)?;
        self.xot.set_namespace(node, prefix, namespace);
        self.xot.set_element_name(node, name);
        Ok(node)
    }
}

/// A path as text.
///
/// # Errors
/// `Invalid` for one that is not UTF-8, which a document cannot name.
pub(crate) fn path_text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::invalid(format!("path {}", path.display()), "it is not UTF-8, as XML must be")
    })
}

/// XML has no way to write most control characters, and those it has change on the way. Nothing of ours needs one.
fn check(what: &str, text: &str) -> Result<()> {
    let bad = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    match text.chars().find(|c| bad(*c)) {
        None => Ok(()),
        Some(c) => Err(Error::invalid(
            format!("{what} {text:?}"),
            format!("a document cannot hold the character {c:?}"),
        )),
    }
}

/// What the tree refuses is a mistake in this file: elements go into elements only.
fn broken(error: xot::Error) -> Error {
    Error::backend("libvirt", "put a document together", error)
}
