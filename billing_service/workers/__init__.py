"""Several processes under one parent, on one set of addresses: `billing-service serve --workers N`."""
