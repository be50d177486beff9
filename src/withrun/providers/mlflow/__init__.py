"""The provider `mlflow`: tracking servers over REST, every other store through MLflow's own client."""
