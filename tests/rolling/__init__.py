"""A rolling restart of two services and two gateways under load: no failed call, no lost event."""
