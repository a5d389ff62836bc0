"""What N weighted steps do to the policy: one file a method."""
