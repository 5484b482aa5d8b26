"""What a network costs, one file a resource."""
