//! What people look at: contact sheets, plots, the report page.
