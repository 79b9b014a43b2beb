"""What all table dataplanes share: incremental compiling, tracking, applying; a backend adds only its spelling."""
