//! A GitLab for tests: stateful, over real HTTP, and held to the published description in both directions.
