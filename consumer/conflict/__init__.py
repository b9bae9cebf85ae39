"""What happens when two nodes wrote one row: detection, policy, record. Detection and policy are pure."""
