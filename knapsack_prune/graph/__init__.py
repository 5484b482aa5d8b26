"""What a traced network is made of: groups of units, cost terms and what else follows the kept units."""
