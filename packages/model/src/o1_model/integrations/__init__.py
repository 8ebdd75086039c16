"""Our models as other frameworks take them; each module needs the extra of its name."""
