//! GitLab jobs in single-use machines: the job protocol and the administration of runners.
